#include "checkpoint/accounting.h"

#include <algorithm>
#include <regex>
#include <set>

#include "checkpoint/misfit_report.h"
#include "checkpoint/printable.h"
#include "checkpoint/source_reader.h"
#include "tenon/error.h"
#include "tenon/new_rows.h"

namespace tenon::host {

namespace {

using Shape = std::vector<int64_t>;

// libstdc++'s regex engine recurses once per character: longer names could exhaust the stack, and no real name comes near.
constexpr size_t kLongestMatched = 1000;

class Accountant {
 public:
  Accountant(const Blueprint& blueprint, const Checkpoint& checkpoint) : blueprint_(blueprint), checkpoint_(checkpoint) {
    for (const auto& slot : blueprint.slots)
      if (!slot.tied_to.empty()) tied_[slot.tied_to].push_back(&slot);
  }

  WeightMap run(const PackedNames& packed_names) {
    if (!checkpoint_.has_weights())
      fail(ErrorCode::Data, checkpoint_.folder().string(),
           " holds no weights, expected model.safetensors or model.safetensors.index.json; download them, or set init = \"random\"");
    for (const auto& slot : blueprint_.slots) slot_weights(slot, packed_names);
    for (const auto& tensor : blueprint_.tensors)
      if (auto source = resolve(tensor.path, tensor.sources, tensor.shape, at::isFloatingType(tensor.dtype)))
        map_.tensors.emplace(tensor.path, *source);
    for (const auto& [unused, slots] : tied_)
      for (const SlotSpec* slot : slots)
        if (const std::string name = slot->path + ".weight"; checkpoint_.has(name) && !used_.count(name)) {
          used_[name];
          map_.stored_tied.push_back(slot->path);
        }
    check_unused_rows();
    collect_surplus();
    report();
    return std::move(map_);
  }

 private:
  void slot_weights(const SlotSpec& slot, const PackedNames& packed_names) {
    if (!slot.tied_to.empty()) return;
    SlotWeights weights;
    if (packed_names) weights.packed = packed_names(slot);
    for (const auto& name : weights.packed) {
      if (!checkpoint_.has(name)) miss(name);
      used_[name];
    }
    if (weights.packed.empty()) {
      std::vector<Source> sources = slot.sources;
      // Of tied weights a file may hold either one.
      for (const SlotSpec* other : tied_[slot.path]) {
        Source source = sources.front();
        if (split_new_rows(source).new_rows > 0)
          source.pieces.front().tensor = other->path + ".weight";
        else
          source = Source::rename(other->path + ".weight");
        sources.push_back(std::move(source));
      }
      if (auto source = resolve(slot.path + ".weight", sources, weight_shape(slot), true)) weights.weight = *source;
    }
    if (slot.bias) weights.bias = resolve(slot.path + ".bias", slot.bias_sources, bias_shape(slot), true);
    map_.slots.emplace(slot.path, std::move(weights));
  }

  // What is wrong with one layout: names that are absent, and names with the reason why they do not fit.
  struct Verdict {
    std::vector<std::string> absent;
    std::map<std::string, std::string> misfits;
    bool fits() const { return absent.empty() && misfits.empty(); }
  };

  Verdict judge(const Source& source, const Shape& shape, bool floating) const {
    Verdict verdict;
    int64_t rows = 0;
    const int64_t per_member = pieces_per_member(source, shape);
    for (const auto& piece : source.pieces) {
      if (is_new_rows(piece)) {
        rows += piece.length;
        continue;
      }
      if (!checkpoint_.has(piece.tensor)) {
        verdict.absent.push_back(piece.tensor);
        continue;
      }
      const TensorSpec spec = checkpoint_.spec(piece.tensor);
      if (floating && !at::isFloatingType(spec.dtype)) {
        verdict.misfits[piece.tensor] =
            concat(": found ", c10::toString(spec.dtype), " ", shape_text(spec.shape), ", expected floating point");
        continue;
      }
      // The shape that the tensor must have: all of the model's, one of a stack, or so many rows of either.
      Shape expected = shape;
      if (source.stack) expected.erase(expected.begin());
      const bool is_part = source.stack ? per_member > 1 : source.pieces.size() > 1, cuts = piece.start != 0 || piece.length >= 0;
      const bool ranks_match = spec.shape.size() == expected.size();
      if (ranks_match && !expected.empty() && (is_part || cuts)) {
        const int64_t have = spec.shape[0], take = piece.length < 0 ? have - piece.start : piece.length;
        if (piece.start < 0 || take < 0 || piece.start + take > have) {
          verdict.misfits[piece.tensor] =
              concat(": found ", shape_text(spec.shape), ", expected rows ", piece.start, " to ", piece.start + take);
          continue;
        }
        rows += take;
        if (is_part || take == expected[0]) expected[0] = have;
      }
      if (spec.shape != expected)
        verdict.misfits[piece.tensor] = concat(": found ", shape_text(spec.shape), ", expected ", shape_text(expected));
    }
    const bool is_concat = !source.stack && source.pieces.size() > 1;
    if (verdict.fits() && is_concat && rows != shape[0])
      verdict.misfits[source.pieces.front().tensor] =
          concat(" and ", source.pieces.size() - 1, " more: together ", rows, " rows, expected ", shape[0]);
    if (verdict.fits() && source.stack && per_member == 0)
      verdict.misfits[source.pieces.empty() ? "" : source.pieces.front().tensor] =
          concat(": a stack of ", source.pieces.size(), ", expected ", shape.at(0));
    if (verdict.fits() && source.stack && per_member > 1) {
      // Only now are all lengths known: each member's pieces make up its rows.
      for (size_t i = 0; i < source.pieces.size(); i += static_cast<size_t>(per_member)) {
        int64_t member_rows = 0;
        for (size_t p = i; p < i + static_cast<size_t>(per_member); ++p) {
          const Source::Piece& piece = source.pieces[p];
          member_rows += piece.length < 0 ? checkpoint_.spec(piece.tensor).shape.at(0) - piece.start : piece.length;
        }
        if (member_rows != shape.at(1))
          verdict.misfits[source.pieces[i].tensor] =
              concat(" and ", per_member - 1, " more: together ", member_rows, " rows, expected ", shape.at(1));
      }
    }
    return verdict;
  }

  std::optional<Source> resolve(const std::string& path, const std::vector<Source>& sources, const Shape& shape, bool floating) {
    if (sources.empty()) fail(ErrorCode::Internal, "the blueprint names no file tensor for '", path, "'");
    // Of layouts that do not fit, the one that is nearest to fitting is reported.
    std::optional<Verdict> nearest_verdict;
    const Source* nearest_source = nullptr;
    for (const auto& source : sources) {
      Verdict verdict = judge(source, shape, floating);
      if (verdict.fits()) {
        for (const auto& piece : source.pieces) use(piece);
        return source;
      }
      if (!nearest_verdict ||
          verdict.absent.size() * nearest_source->pieces.size() < nearest_verdict->absent.size() * source.pieces.size()) {
        nearest_verdict = std::move(verdict);
        nearest_source = &source;
      }
    }
    for (const auto& name : nearest_verdict->absent) miss(name);
    for (const auto& [name, reason] : nearest_verdict->misfits)
      if (misfits_.emplace(name, reason).second) misshapen_.push_back(name);
    for (const auto& piece : nearest_source->pieces)
      if (!is_new_rows(piece)) whole_.insert(piece.tensor), used_[piece.tensor];
    return std::nullopt;
  }

  // Several slots may be cut from one absent tensor.
  void miss(const std::string& name) {
    if (missed_.insert(name).second) missing_.push_back(name);
  }

  void use(const Source::Piece& piece) {
    if (is_new_rows(piece)) return;
    const TensorSpec spec = checkpoint_.spec(piece.tensor);
    const int64_t rows = spec.shape.empty() ? 1 : spec.shape[0];
    used_[piece.tensor].emplace_back(piece.start, piece.length < 0 ? rows : piece.start + piece.length);
  }

  // Rows of a fused tensor that nothing takes: the model was cut otherwise than the file.
  void check_unused_rows() {
    for (auto& [name, ranges] : used_) {
      if (ranges.empty() || whole_.count(name) || !checkpoint_.has(name)) continue;
      std::sort(ranges.begin(), ranges.end());
      const TensorSpec spec = checkpoint_.spec(name);
      const int64_t rows = spec.shape.empty() ? 1 : spec.shape[0];
      int64_t covered = 0, gap_end = rows;
      for (const auto& [first, last] : ranges) {
        if (first > covered) {
          gap_end = first;
          break;
        }
        covered = std::max(covered, last);
      }
      if (covered < gap_end) {
        misfits_[name] = concat(": found ", shape_text(spec.shape), ", but no part of the model takes rows ", covered, " to ", gap_end);
        misshapen_.push_back(name);
      }
    }
  }

  void collect_surplus() {
    std::vector<std::regex> ignorable;
    for (const auto& text : blueprint_.ignorable) ignorable.emplace_back(text);
    for (const auto& name : checkpoint_.names()) {
      if (used_.count(name)) continue;
      const bool is_ignorable = name.size() <= kLongestMatched && std::any_of(ignorable.begin(), ignorable.end(), [&](const std::regex& r) {
                                  return std::regex_match(name, r);
                                });
      if (!is_ignorable) surplus_.push_back(name);
    }
  }

  void report() const {
    if (missing_.empty() && surplus_.empty() && misshapen_.empty()) return;
    std::string text = concat("the weights in ", checkpoint_.folder().string(), " do not fit the model: ", missing_.size(), " missing, ",
                              surplus_.size(), " surplus, ", misshapen_.size(), " misshapen");
    if (!missing_.empty()) text += "\n  missing" + grouped(missing_);
    if (!surplus_.empty()) text += "\n  surplus" + grouped(surplus_);
    if (!misshapen_.empty()) text += "\n  misshapen" + grouped(misshapen_, misfits_);
    if (const std::string hint = prefix_hint(missing_, surplus_); !hint.empty())
      text += "\n  " + hint;
    else if (const Value* packed = checkpoint_.config().find_set("quantization_config"); packed && packed->is_table())
      text += concat("\n  config.json says that the weights are already quantized (quant_method ",
                     in_quotes(packed->string_or("quant_method", "unknown")),
                     "): a quantizer that reads this format must be named by the recipe, or load the original weights");
    else if (!misshapen_.empty())
      text += "\n  config.json and the weights are of different models, or a value that the recipe overrides changes shapes";
    throw Error(ErrorCode::Data, text);
  }

  const Blueprint& blueprint_;
  const Checkpoint& checkpoint_;
  WeightMap map_;
  std::map<std::string, std::vector<const SlotSpec*>> tied_;              // by the path they are tied to
  std::map<std::string, std::vector<std::pair<int64_t, int64_t>>> used_;  // rows taken; none: taken whole or reported
  std::set<std::string> whole_, missed_;                                  // in layouts that were reported already
  std::vector<std::string> missing_, surplus_, misshapen_;
  std::map<std::string, std::string> misfits_;
};

}  // namespace

int64_t pieces_per_member(const Source& source, const std::vector<int64_t>& shape) {
  const int64_t members = source.stack && !shape.empty() ? shape[0] : 0, pieces = static_cast<int64_t>(source.pieces.size());
  return members > 0 && pieces % members == 0 ? pieces / members : 0;
}

std::vector<int64_t> weight_shape(const SlotSpec& slot) {
  if (slot.kind == SlotKind::Experts) return {slot.count, slot.out, slot.in};
  return {slot.out, slot.in};
}

std::vector<int64_t> bias_shape(const SlotSpec& slot) {
  if (slot.kind == SlotKind::Experts) return {slot.count, slot.out};
  return {slot.out};
}

WeightMap account(const Blueprint& blueprint, const Checkpoint& checkpoint, const PackedNames& packed_names) {
  return Accountant(blueprint, checkpoint).run(packed_names);
}

std::vector<std::string> differing_tied_weights(const Blueprint& blueprint, const Checkpoint& checkpoint, const WeightMap& weights) {
  // Two weights that were trained apart differ everywhere; so many rows show it, without reading the file twice.
  constexpr int64_t kSampledRows = 64;
  std::vector<std::string> notes;
  for (const auto& path : weights.stored_tied) {
    const SlotSpec* slot = blueprint.find_slot(path);
    auto base = slot ? weights.slots.find(slot->tied_to) : weights.slots.end();
    if (base == weights.slots.end() || base->second.weight.pieces.empty()) continue;
    GrownSource grown = split_new_rows(base->second.weight);
    const SourceReader reader(checkpoint, std::move(grown.stored), {slot->out - grown.new_rows, slot->in});
    const std::string stored = path + ".weight";
    const TensorSpec spec = checkpoint.spec(stored);
    bool differs = spec.shape != reader.shape();
    for (int64_t i = 0; !differs && i < std::min(kSampledRows, reader.rows()); ++i) {
      const int64_t row = i * reader.rows() / std::min(kSampledRows, reader.rows());
      const at::Tensor a = checkpoint.view_rows(stored, row, row + 1).to(at::kFloat), b = reader.read(row, row + 1).to(at::kFloat);
      differs = !a.equal(b);
      checkpoint.release_rows(stored, row, row + 1);
      reader.release(row, row + 1);
    }
    if (differs)
      notes.push_back(concat(stored, " is stored with values of its own, but the config ties it to ", slot->tied_to,
                             ": the stored values are ignored, as in transformers"));
  }
  return notes;
}

}  // namespace tenon::host
