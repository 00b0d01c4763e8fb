// A picture of the network's size, read from a binary PPM file, and how a detection is printed.
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    int width = 0, height = 0;
    std::vector<std::uint8_t> pixels;  // RGB, row by row
};

// Of the form P6 with 8 bits a colour, as `convert street.jpg -resize 416x416! street.ppm` writes it.
inline Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int highest = 0;
    Picture picture;
    const auto skip_comments = [&file] {
        while ((file >> std::ws).peek() == '#') file.ignore(1 << 16, '\n');
    };
    file >> magic;
    for (int* number : {&picture.width, &picture.height, &highest}) {
        skip_comments();
        file >> *number;
    }
    file.get();  // the one blank before the pixels
    const bool is_sane = picture.width > 0 && picture.height > 0 && picture.width < 1 << 15 && picture.height < 1 << 15;
    if (!file || magic != "P6" || highest != 255 || !is_sane) {
        throw std::runtime_error(path + " is no PPM picture of the form P6 with 255 levels");
    }
    picture.pixels.resize(std::size_t(3) * picture.width * picture.height);
    file.read(reinterpret_cast<char*>(picture.pixels.data()), std::streamsize(picture.pixels.size()));
    if (!file) throw std::runtime_error(path + " ends before its last pixel");
    return picture;
}

inline void check_size(const Picture& picture, long height, long width) {
    if (picture.height != height || picture.width != width) {
        throw std::runtime_error("the network takes pictures of " + std::to_string(width) + " x " + std::to_string(height) +
                                 " pixels, this one has " + std::to_string(picture.width) + " x " +
                                 std::to_string(picture.height));
    }
}

// label score x1 y1 x2 y2, in pixels of the picture; a box may reach beyond its borders
inline void print(long label, float score, const float* box) {
    std::printf("%ld %.5f %.3f %.3f %.3f %.3f\n", label, score, box[0], box[1], box[2], box[3]);
}
