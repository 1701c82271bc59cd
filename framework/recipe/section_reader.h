#pragma once
// One section of a recipe against its schema: problems are gathered with their places, plugin options are left over.
#include <string>
#include <vector>

#include "recipe/schema.h"

namespace tenon::host {

struct Problem {
  Value::Place place;
  std::string text;
};

class SectionReader {
 public:
  explicit SectionReader(std::vector<Problem>& problems) : problems_(problems) {}

  // Sets what is right in `target`, the section's struct; what is not in its table goes to `leftover`, or is a problem where that is null.
  // Returns every key with its value or default.
  Value read(const Section& section, const Value& table, void* target, Value* leftover);
  void report(Value::Place place, std::string text) { problems_.push_back({place, std::move(text)}); }

  // Why `key` is no key of the section ("" for the top level), in a user's words.
  static std::string unknown_key(const std::string& section, const std::string& key);

 private:
  void read_row(const OptionRow& row, const std::string& shown, const Value& value, void* target);
  void check_file_tables(const Value& files);
  std::vector<Problem>& problems_;
};

}  // namespace tenon::host
