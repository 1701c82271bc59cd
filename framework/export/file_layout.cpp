#include "export/file_layout.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "checkpoint/accounting.h"
#include "checkpoint/printable.h"
#include "tenon/error.h"
#include "tenon/new_rows.h"

namespace tenon::host {

namespace {

using Order = std::tuple<int, int, int64_t>;  // before, in or after the blocks; stack; block

struct Building {
  FileTensor tensor;
  std::vector<int64_t> tail;  // shape behind dimension 0
  int64_t inner = 1;          // flat rows in one row of dimension 0
  Order order;
};

class Layout {
 public:
  explicit Layout(const LayoutRequest& request) : request_(request) {}

  std::vector<FileTensor> run() {
    for (const auto& slot : request_.blueprint->slots) {
      const Order order = slot.stack >= 0 ? Order{1, slot.stack, slot.block} : Order{slot.role == SlotRole::InputEmbedding ? 0 : 2, 0, 0};
      const bool is_tied = !slot.tied_to.empty();
      if (is_tied && !(request_.write_tied && request_.write_tied(slot))) continue;
      if (!request_.skip_weight || !request_.skip_weight(slot))
        add(FilePart::Kind::Weight, slot.path, is_tied ? std::vector<Source>{Source::rename(slot.path + ".weight")} : slot.sources,
            weight_shape(slot), request_.dtype, order);
      if (slot.bias) add(FilePart::Kind::Bias, slot.path, slot.bias_sources, bias_shape(slot), request_.dtype, order);
    }
    for (const auto& tensor : request_.blueprint->tensors)
      add(FilePart::Kind::Tensor, tensor.path, tensor.sources, tensor.shape,
          at::isFloatingType(tensor.dtype) ? request_.dtype : tensor.dtype,
          tensor.stack >= 0 ? Order{1, tensor.stack, tensor.block} : Order{2, 0, 0});
    return finish();
  }

 private:
  const Source& layout_in_use(const std::string& path, const std::vector<Source>& sources) const {
    if (sources.empty()) fail(ErrorCode::Internal, "the blueprint names no file tensor for '", path, "'");
    if (request_.checkpoint)
      for (const auto& source : sources)
        if (std::all_of(source.pieces.begin(), source.pieces.end(),
                        [&](const auto& piece) { return is_new_rows(piece) || request_.checkpoint->has(piece.tensor); }))
          return source;
    return sources.front();
  }

  void add(FilePart::Kind kind, const std::string& path, const std::vector<Source>& sources, std::vector<int64_t> shape,
           at::ScalarType dtype, Order order) {
    // Rows that the model has behind those of the file become rows of the same tensor.
    GrownSource grown = split_new_rows(layout_in_use(path, sources));
    if (grown.new_rows > 0) grown.stored.pieces.back().length += grown.new_rows;
    const Source& source = grown.stored;
    const int64_t members = shape.empty() ? 1 : shape[0];
    if (source.stack) shape.erase(shape.begin());
    const int64_t own_rows = shape.empty() ? 1 : shape[0];
    const std::vector<int64_t> tail = shape.empty() ? shape : std::vector<int64_t>(shape.begin() + 1, shape.end());
    // A weight's last dimension is one flat row; all others multiply.
    int64_t inner = 1;
    const size_t kept = kind == FilePart::Kind::Weight ? 1 : 0;
    for (size_t i = 0; i + kept < tail.size(); ++i) inner *= tail[i];

    // The one piece of unknown length takes what the others leave.
    int64_t known = 0, open = 0;
    for (const auto& piece : source.pieces) piece.length < 0 ? ++open : known += piece.length;
    const int64_t per_member = source.stack ? static_cast<int64_t>(source.pieces.size()) / std::max<int64_t>(1, members) : 0;
    if (source.stack && static_cast<int64_t>(source.pieces.size()) != per_member * members)
      fail(ErrorCode::Internal, "'", path, "' is a stack of ", members, " from ", source.pieces.size(), " tensors");
    if (!source.stack && open > 1) known = -1;
    int64_t row = 0;
    for (const auto& piece : source.pieces) {
      int64_t length = piece.length;
      if (length < 0 && per_member > 1) length = stored_rows(piece.tensor, path) - piece.start;
      if (length < 0) length = source.stack ? own_rows : known >= 0 ? own_rows - known : stored_rows(piece.tensor, path) - piece.start;
      Building& file = find(piece.tensor, shape.empty(), tail, inner, dtype, order);
      file.tensor.parts.push_back({kind, path, row * inner, length * inner, piece.start * inner});
      row += length;
    }
    if (row != (source.stack ? members * own_rows : own_rows))
      fail(ErrorCode::Internal, "the sources of '", path, "' make up ", row, " rows, expected ",
           source.stack ? members * own_rows : own_rows);
  }

  // Several whole tensors in a row: only the checkpoint knows where one ends.
  int64_t stored_rows(const std::string& name, const std::string& path) const {
    if (!request_.checkpoint || !request_.checkpoint->has(name))
      fail(ErrorCode::Internal, "how '", path, "' is cut into file tensors is not known without a checkpoint that holds ", in_quotes(name));
    return request_.checkpoint->spec(name).shape.at(0);
  }

  Building& find(const std::string& name, bool scalar, const std::vector<int64_t>& tail, int64_t inner, at::ScalarType dtype, Order order) {
    auto [it, is_new] = index_.try_emplace(name, building_.size());
    if (is_new) {
      Building file;
      file.tensor.spec.name = name;
      file.tensor.spec.dtype = dtype;
      if (!scalar) file.tensor.spec.shape.push_back(0);
      file.tensor.spec.shape.insert(file.tensor.spec.shape.end(), tail.begin(), tail.end());
      file.tail = tail, file.inner = inner, file.order = order;
      building_.push_back(std::move(file));
    }
    Building& file = building_[it->second];
    if (file.tail != tail || file.tensor.spec.dtype != dtype)
      fail(ErrorCode::Internal, "weights of different widths share the file tensor ", in_quotes(name));
    return file;
  }

  std::vector<FileTensor> finish() {
    for (auto& file : building_) {
      auto& parts = file.tensor.parts;
      std::stable_sort(parts.begin(), parts.end(), [](const FilePart& a, const FilePart& b) { return a.file_row < b.file_row; });
      int64_t position = 0;
      for (const auto& part : parts) {
        if (part.file_row != position)
          fail(ErrorCode::Internal, "rows ", std::min(position, part.file_row), " to ", std::max(position, part.file_row),
               " of the file tensor ", in_quotes(file.tensor.spec.name),
               part.file_row > position ? " come from nothing in the model" : " come from two weights of the model");
        position += part.rows;
      }
      if (!file.tensor.spec.shape.empty()) file.tensor.spec.shape[0] = position / file.inner;
    }
    std::stable_sort(building_.begin(), building_.end(), [](const Building& a, const Building& b) { return a.order < b.order; });
    std::vector<FileTensor> tensors;
    for (auto& file : building_) tensors.push_back(std::move(file.tensor));
    return tensors;
  }

  const LayoutRequest& request_;
  std::vector<Building> building_;
  std::map<std::string, size_t> index_;
};

}  // namespace

std::vector<FileTensor> file_layout(const LayoutRequest& request) { return Layout(request).run(); }

}  // namespace tenon::host
