// Finds objects by an .ncnn.param file of python -m public.test_scripts.export --format ncnn --outputs boxes.
//
//     detect_ncnn network.ncnn.param picture.ppm [least score]
//
// The picture has the network's size.  How it is normalised, and the thresholds, stand in network.ncnn.param.json, which the
// export wrote; network.ncnn.bin lies beside it, too.  Decoding stands in the file; what is left is below: a threshold,
// the choice of the best and non-maximum suppression inside each class.
#include <net.h>

#include <algorithm>
#include <exception>
#include <limits>

#include "card.h"
#include "picture.h"

namespace {

struct Detection {
    const float* box;
    float score;
    int label, anchor;
};

// By falling score; of equal ones the lower class, then the lower anchor.
bool is_better(const Detection& a, const Detection& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.label != b.label ? a.label < b.label : a.anchor < b.anchor;
}

float overlap(const float* a, const float* b) {
    const float width = std::max(std::min(a[2], b[2]) - std::max(a[0], b[0]), 0.0f);
    const float height = std::max(std::min(a[3], b[3]) - std::max(a[1], b[1]), 0.0f);
    const float shared = width * height;
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}

// The picture as the network takes it: colours in its order, (pixel * scale - mean) / std.
ncnn::Mat normalise(const Picture& picture, const Card& card) {
    const auto mean = card.numbers("mean"), deviation = card.numbers("std");
    const double scale = card.number("scale", 1);
    const bool is_bgr = card.is("color_order", "\"bgr\"");
    ncnn::Mat input(picture.width, picture.height, 3);
    for (int channel = 0; channel < 3; ++channel) {
        const float factor = float(scale / deviation.at(channel)), offset = float(-mean.at(channel) / deviation.at(channel));
        const std::uint8_t* pixel = picture.pixels.data() + (is_bgr ? 2 - channel : channel);
        for (int y = 0; y < picture.height; ++y) {
            float* row = input.channel(channel).row(y);
            for (int x = 0; x < picture.width; ++x, pixel += 3) row[x] = *pixel * factor + offset;
        }
    }
    return input;
}

// Of one class the candidates above the threshold, the best `nms_top_k`.
std::vector<Detection> candidates_of(int label, const ncnn::Mat& boxes, const ncnn::Mat& scores, const Card& card) {
    const double threshold = card.number("score_threshold", 0), most = card.number("nms_top_k", 1e9);
    const bool is_one_class = card.is("one_class_a_box", "true"), drops_empty = card.is("drops_empty", "true");
    std::vector<Detection> found;
    for (int anchor = 0; anchor < scores.h; ++anchor) {
        const float* row = scores.row(anchor);
        const bool is_wanted = !is_one_class || std::max_element(row, row + scores.w) - row == label;
        if (is_wanted && row[label] > threshold) found.push_back({boxes.row(anchor), row[label], label, anchor});
    }
    std::sort(found.begin(), found.end(), is_better);
    if (found.size() > most) found.resize(std::size_t(most));
    const auto is_empty = [](const Detection& one) { return !(one.box[2] > one.box[0] && one.box[3] > one.box[1]); };
    if (drops_empty) found.erase(std::remove_if(found.begin(), found.end(), is_empty), found.end());
    return found;
}

std::vector<Detection> suppress(const ncnn::Mat& boxes, const ncnn::Mat& scores, const Card& card) {
    const double limit = card.number("nms_iou", std::numeric_limits<double>::infinity());
    const double most = card.number("keep_top_k", 1e9);
    std::vector<Detection> kept;
    for (int label = 0; label < scores.w; ++label) {
        std::vector<Detection> own;
        for (const auto& one : candidates_of(label, boxes, scores, card)) {
            const auto hides = [&](const Detection& better) { return overlap(better.box, one.box) > limit; };
            if (std::none_of(own.begin(), own.end(), hides)) own.push_back(one);
        }
        kept.insert(kept.end(), own.begin(), own.end());
    }
    std::sort(kept.begin(), kept.end(), is_better);
    if (kept.size() > most) kept.resize(std::size_t(most));
    return kept;
}

void open(ncnn::Net& net, const std::string& path) {
    const std::string ending = ".ncnn.param";
    if (path.size() <= ending.size() || path.compare(path.size() - ending.size(), ending.size(), ending) != 0) {
        throw std::runtime_error(path + " is not called .ncnn.param");
    }
    net.opt.num_threads = 1;
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = false;  // float32, as it was compared
    net.opt.use_bf16_storage = false;
    const std::string weights = path.substr(0, path.size() - 5) + "bin";
    if (net.load_param(path.c_str()) || net.load_model(weights.c_str())) {
        throw std::runtime_error(path + " cannot be opened by ncnn");
    }
}

void detect(const std::string& network, const char* path, float least) {
    const Card card(network + ".json");
    if (!card.is("outputs", "\"boxes\"") || card.numbers("level_lengths").empty()) {
        throw std::runtime_error(network + " is no file of --outputs boxes");
    }
    if (card.is("candidates_of", "\"level\"") && !card.is("nms_top_k", "null")) {
        throw std::runtime_error("candidates of this network are chosen by level, which this example does not do");
    }
    const auto size = card.numbers("size");  // height, width
    const Picture picture = read_ppm(path);
    check_size(picture, long(size.at(0)), long(size.at(1)));

    ncnn::Net net;
    open(net, network);
    ncnn::Mat boxes, scores;  // a row of 4, and one of all classes, for each anchor
    ncnn::Extractor extractor = net.create_extractor();
    extractor.input("in0", normalise(picture, card));
    if (extractor.extract("out0", boxes) || extractor.extract("out1", scores)) {
        throw std::runtime_error(network + " cannot be computed by ncnn");
    }
    if (boxes.w != 4 || boxes.h != scores.h || net.output_names().size() != 2) {
        throw std::runtime_error(network + " gives other outputs than boxes and scores");
    }
    if (card.is("is_clipped", "true")) {
        for (int anchor = 0; anchor < boxes.h; ++anchor) {
            float* box = boxes.row(anchor);
            for (int i = 0; i < 4; ++i) box[i] = std::clamp(box[i], 0.0f, float(i % 2 ? picture.height : picture.width));
        }
    }
    for (const auto& one : suppress(boxes, scores, card)) {
        if (one.score >= least) print(one.label, one.score, one.box);
    }
}

}  // namespace

int main(int count, char** words) {
    if (count != 3 && count != 4) {
        std::fprintf(stderr, "usage: detect_ncnn network.ncnn.param picture.ppm [least score]\n");
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
