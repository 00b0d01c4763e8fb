// What <file>.json says of an exported file.  No reader of JSON in general: it finds keys in the card that the export wrote.
#pragma once

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

class Card {
public:
    explicit Card(const std::string& path) : path_(path) {
        std::ifstream file(path);
        std::stringstream content;
        content << file.rdbuf();
        text_ = content.str();
        if (!file || text_.find("\"card\"") == std::string::npos) {
            throw std::runtime_error(path + " is no card; it is written beside the exported file");
        }
    }

    // What stands behind the first "name": up to the end of the list or of the value.
    std::string value(const std::string& name) const {
        const auto key = text_.find("\"" + name + "\":");
        if (key == std::string::npos) throw std::runtime_error(path_ + " says nothing of " + name);
        const auto start = text_.find_first_not_of(" \n", key + name.size() + 3);
        const auto end = text_[start] == '[' ? text_.find(']', start) : text_.find_first_of(",}\n", start);
        return text_.substr(start, end - start);
    }

    bool is(const std::string& name, const std::string& wanted) const { return value(name) == wanted; }

    std::vector<double> numbers(const std::string& name) const {
        std::string list = value(name);
        for (char& sign : list) {
            if (sign == '[' || sign == ',') sign = ' ';
        }
        std::stringstream stream(list);
        std::vector<double> found;
        for (double number; stream >> number;) found.push_back(number);
        return found;
    }

    // One number; `otherwise` where the card has null.
    double number(const std::string& name, double otherwise) const {
        return is(name, "null") ? otherwise : std::strtod(value(name).c_str(), nullptr);
    }

private:
    std::string path_, text_;
};
