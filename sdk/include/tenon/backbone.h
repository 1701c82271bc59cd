#pragma once
// One architecture inside another: the text model of a model that sees. The parent takes the child's slots into its own blueprint under other
// names, and builds the child over a view of its own parts.
#include <string>
#include <utility>
#include <vector>

#include "tenon/architecture.h"
#include "tenon/export.h"

namespace tenon {

// Names by their beginnings: the first pair whose first part begins the name replaces it by the second.
struct PrefixRules {
  std::vector<std::pair<std::string, std::string>> rules;
  std::string operator()(const std::string& name) const {
    for (const auto& [from, to] : rules)
      if (name.starts_with(from)) return to + name.substr(from.size());
    return name;
  }
};

struct BackboneNames {
  PrefixRules path;                // the child's module paths -> the parent's
  std::vector<PrefixRules> files;  // by layout of the parent's checkpoints, in order of preference: the child's file tensors -> theirs
};

// Adds the child's stacks, slots, tensors, costs and cache to the parent, behind what is there, and sets its vocabulary, width, context and seams.
// The child's `ignorable` is left out: its names would be others. Returns the index of the child's first stack.
TENON_API int add_backbone(Blueprint& parent, const Blueprint& child, const BackboneNames& names);

// The parent's parts under the child's names. `parent` outlives it.
class TENON_API BackboneParts final : public Parts {
 public:
  BackboneParts(Parts& parent, Blueprint child, BackboneNames names, int first_stack);
  ~BackboneParts() override;
  const Blueprint& blueprint() const override { return blueprint_; }
  Slot& slot(const std::string& path) override { return parent_.slot(names_.path(path)); }
  Dense& dense(const std::string& path) override { return parent_.dense(names_.path(path)); }
  Precision precision() const override { return parent_.precision(); }
  at::Device device(int stack, int64_t block) const override { return parent_.device(stack < 0 ? stack : first_stack_ + stack, block); }

 private:
  Parts& parent_;
  Blueprint blueprint_;
  BackboneNames names_;
  int first_stack_;
};

}  // namespace tenon
