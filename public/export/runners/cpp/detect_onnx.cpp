// Finds objects by an .onnx file of python -m public.test_scripts.export --format onnx --outputs detections, by ONNX Runtime.
//
//     detect_onnx network.onnx picture.ppm [least score]
//
// The picture has the network's size.  Normalising, decoding and non-maximum suppression stand in the file.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <exception>

#include "picture.h"

namespace {

void detect(const char* network, const char* path, float least) {
    Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "encore");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(environment, network, options);

    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<std::string> names;  // "images", and of some networks "regions"
    for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
        names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    }
    const auto input = session.GetInputTypeInfo(0);
    const auto info = input.GetTensorTypeAndShapeInfo();
    const auto shape = info.GetShape();  // images, rows, columns, 3
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 || shape.size() != 4 || session.GetOutputCount() != 4) {
        throw std::runtime_error(std::string(network) + " is no file of --input image --outputs detections");
    }
    if (shape[0] > 1) throw std::runtime_error(std::string(network) + " takes several pictures: export it with --batch 1");

    Picture picture = read_ppm(path);
    if (shape[1] > 0) check_size(picture, long(shape[1]), long(shape[2]));  // below 0: any size
    const std::array<std::int64_t, 4> sides{1, picture.height, picture.width, 3};
    const std::array<std::int64_t, 2> one_region{1, 4};
    std::array<std::int64_t, 4> region{0, 0, picture.width, picture.height};  // the picture fills its canvas

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> inputs;
    inputs.push_back(Ort::Value::CreateTensor<std::uint8_t>(memory, picture.pixels.data(), picture.pixels.size(), sides.data(), 4));
    if (names.size() > 1) {
        inputs.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, region.data(), 4, one_region.data(), 2));
    }
    std::vector<const char*> input_names;
    for (const auto& name : names) input_names.push_back(name.c_str());
    const std::array<const char*, 4> output_names{"counts", "boxes", "scores", "labels"};
    auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(), output_names.data(), 4);

    const auto count = outputs[0].GetTensorData<std::int64_t>()[0];
    if (count < 0) throw std::runtime_error("the network's outputs are NaN or infinite, so its weights are broken");
    const float* boxes = outputs[1].GetTensorData<float>();
    const float* scores = outputs[2].GetTensorData<float>();
    const auto* labels = outputs[3].GetTensorData<std::int64_t>();
    for (std::int64_t i = 0; i < count; ++i) {  // by falling score
        if (scores[i] >= least) print(long(labels[i]), scores[i], boxes + 4 * i);
    }
}

}  // namespace

int main(int count, char** words) {
    if (count != 3 && count != 4) {
        std::fprintf(stderr, "usage: detect_onnx network.onnx picture.ppm [least score]\n");
        return 2;
    }
    try {
        detect(words[1], words[2], count == 4 ? std::stof(words[3]) : 0.0f);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
    return 0;
}
