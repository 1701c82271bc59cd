#include "model/choose.h"

#include <algorithm>

namespace tenon::host {

bool module_matches(const std::string& path, const std::string& pattern) {
  if (pattern.empty()) return false;
  for (size_t at = path.find(pattern); at != std::string::npos; at = path.find(pattern, at + 1)) {
    const size_t end = at + pattern.size();
    if ((at == 0 || path[at - 1] == '.') && (end == path.size() || path[end] == '.')) return true;
  }
  return false;
}

FillerChoice choose_filler(const SlotSpec& slot, const Blueprint& blueprint, const std::vector<ActiveQuantizer>& quantizers) {
  if (quantizers.empty()) return {nullptr, "no quantizer in the recipe"};
  for (const auto& active : quantizers) {
    if (active.from_checkpoint)
      return active.stored.count(slot.path) ? FillerChoice{&active, "stored so in the checkpoint"}
                                            : FillerChoice{nullptr, "stored dense in the checkpoint"};
    const auto& section = active.section;
    if (!section.modules.empty() &&
        std::none_of(section.modules.begin(), section.modules.end(), [&](const auto& m) { return module_matches(slot.path, m); }))
      continue;
    if (section.skip_modules)
      for (const auto& skip : *section.skip_modules)
        if (module_matches(slot.path, skip)) return {nullptr, "skip_modules names '" + skip + "'"};
    if (slot.role == SlotRole::OutputHead && !section.embeddings)
      return {nullptr, "the output head stays dense (embeddings = true quantizes it)"};
    if (slot.role == SlotRole::InputEmbedding && !section.embeddings) {
      const bool tied =
          std::any_of(blueprint.slots.begin(), blueprint.slots.end(), [&](const auto& other) { return other.tied_to == slot.path; });
      return {nullptr, tied ? "shares its weight with the output head, which stays dense"
                            : "embeddings stay dense (embeddings = true quantizes them)"};
    }
    const Support support = active.quantizer->supports(slot);
    if (!support.yes) return {nullptr, section.type + ": " + support.reason};
    return {&active, "quantizer " + section.type};
  }
  return {nullptr, "no quantizer's modules name it"};
}

}  // namespace tenon::host
