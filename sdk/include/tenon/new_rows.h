#pragma once
// Rows that a weight has and no file: those of a vocabulary that grew. In on_blueprint a patch puts such a piece behind the others of a slot's
// sources; the host reads the others, draws these, quantizes and places the whole, and export writes them as rows of the tensor before.
#include <string>

#include "tenon/slot.h"

namespace tenon {

// Around the mean of the rows before, with a billionth of their covariance; or around zero with config.json's initializer_range.
enum class NewRows { Mean, Normal };

inline constexpr const char *kNewRowsMean = "(new rows around the mean)", *kNewRowsNormal = "(new rows around zero)";

inline Source::Piece new_rows(int64_t count, NewRows how) { return {how == NewRows::Mean ? kNewRowsMean : kNewRowsNormal, 0, count}; }
inline bool is_new_rows(const Source::Piece& piece) { return piece.tensor == kNewRowsMean || piece.tensor == kNewRowsNormal; }

// A source taken apart: what files hold, and the rows behind it.
struct GrownSource {
  Source stored;
  int64_t new_rows = 0;
  NewRows how = NewRows::Mean;
};
inline GrownSource split_new_rows(Source source) {
  GrownSource grown;
  if (!source.pieces.empty() && is_new_rows(source.pieces.back())) {
    grown.new_rows = source.pieces.back().length;
    grown.how = source.pieces.back().tensor == kNewRowsMean ? NewRows::Mean : NewRows::Normal;
    source.pieces.pop_back();
  }
  grown.stored = std::move(source);
  return grown;
}

}  // namespace tenon
