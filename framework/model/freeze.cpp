#include "model/freeze.h"

#include <regex>

#include "base/text.h"
#include "model/choose.h"
#include "tenon/error.h"

namespace tenon::host {

namespace {

constexpr size_t kLongestPattern = 1000;
const std::string kUnnamedPart = "language";

struct Place {
  std::string path, module, part;
  const std::string* owner = nullptr;  // of the weight, where it is another place's
};

std::vector<Place> places_of(const Blueprint& blueprint) {
  std::vector<Place> places;
  bool has_parts = false;
  for (const auto& slot : blueprint.slots) {
    places.push_back({slot.path, slot.path, slot.part, slot.tied_to.empty() ? nullptr : &slot.tied_to});
    has_parts |= !slot.part.empty();
  }
  for (const auto& tensor : blueprint.tensors) {
    places.push_back({tensor.path, tensor.path.substr(0, tensor.path.rfind('.')), tensor.part});
    has_parts |= !tensor.part.empty();
  }
  if (has_parts)
    for (Place& place : places)
      if (place.part.empty()) place.part = kUnnamedPart;
  return places;
}

// Names that would have matched: parts, every module from the left, and its last component alone.
std::vector<std::string> known_names(const std::vector<Place>& places) {
  std::set<std::string> names;
  for (const Place& place : places) {
    if (!place.part.empty()) names.insert(place.part);
    for (size_t begin = 0, at = 0; at != std::string::npos; begin = at + 1) {
      at = place.module.find('.', begin);
      names.insert(place.module.substr(0, at));
      names.insert(place.module.substr(begin, at == std::string::npos ? at : at - begin));
    }
  }
  return {names.begin(), names.end()};
}

std::regex compile(const std::string& name) {
  if (name.size() > kLongestPattern)
    fail(ErrorCode::Recipe, "train.freeze: a name of ", name.size(), " characters, expected ", kLongestPattern, " or fewer");
  try {
    return std::regex(name, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error& error) {
    fail(ErrorCode::Recipe, "train.freeze: '", name, "' is neither a module's name nor a regular expression: ", error.what());
  }
}

}  // namespace

std::set<std::string> frozen_paths(const Blueprint& blueprint, const std::vector<std::string>& names) {
  const std::vector<Place> places = places_of(blueprint);
  std::set<std::string> frozen;
  std::vector<std::string> problems;
  for (const std::string& name : names) {
    const std::regex pattern = compile(name);
    bool has_match = false;
    for (const Place& place : places) {
      const bool is_match = place.part == name || module_matches(place.path, name) || std::regex_match(place.path, pattern);
      has_match |= is_match;
      if (is_match) frozen.insert(place.owner ? *place.owner : place.path);
    }
    if (!has_match)
      problems.push_back(concat("train.freeze: nothing in this model is called '", name, "'", did_you_mean(name, known_names(places)),
                                ": name a part, a module as `host plan` lists them, or a regular expression for whole paths"));
  }
  if (!problems.empty()) throw Error(ErrorCode::Recipe, join(problems, "\n"));
  bool is_all = !frozen.empty();
  for (const Place& place : places) {
    if (place.owner && frozen.count(*place.owner)) frozen.insert(place.path);
    is_all &= frozen.count(place.path) > 0;
  }
  if (is_all) fail(ErrorCode::Recipe, "train.freeze names every weight of this model, so nothing is left to train: leave some out");
  return frozen;
}

}  // namespace tenon::host
