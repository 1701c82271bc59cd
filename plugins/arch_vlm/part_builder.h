#pragma once
// Adds one part of a model, such as a tower, to a blueprint: a stack of its own, its slots and tensors under one path, their names in each layout of files.
#include <string>
#include <utility>
#include <vector>

#include "tenon/blueprint.h"

namespace tenon::vlm {

// What stands before a name in a file, by layout.
using Prefixes = std::vector<std::string>;

class PartBuilder {
 public:
  // A new stack "<path>.<blocks>" behind those that are there. `part`: of slots and tensors, see SlotSpec.
  PartBuilder(Blueprint& blueprint, std::string path, Prefixes files, const std::string& blocks, int64_t count, std::string part);

  // Of the slots and tensors that follow.
  void set_part(std::string part) { part_ = std::move(part); }
  const std::string& path() const { return path_; }

  void linear(const std::string& name, int64_t out, int64_t in, bool bias, int64_t block, int stage, std::string input_group,
              Partition partition);
  void tensor(const std::string& name, std::vector<int64_t> shape, DenseKind kind, int64_t block);
  // weight, and bias where there is one
  void norm(const std::string& name, int64_t width, bool bias, int64_t block);

 private:
  std::vector<Source> sources(const std::string& name) const;

  Blueprint& blueprint_;
  std::string path_, part_;
  Prefixes files_;
  int stack_;
};

}  // namespace tenon::vlm
