#include "model/calibration_data.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <random>

#include "base/file.h"
#include "base/text.h"
#include "base/workers.h"
#include "data/records.h"

namespace tenon::host {

namespace {

const TextCodec& required(const TextCodec* text, const std::string& origin) {
  if (!text)
    fail(ErrorCode::Data, origin, ": text needs a tokenizer, which the checkpoint does not have; records may hold \"input_ids\" instead");
  return *text;
}

std::vector<int64_t> tokens_of(const Value& record, const std::string& origin, const TextCodec* text) {
  if (const Value* ids = record.find_set("input_ids")) {
    std::vector<int64_t> tokens;
    for (const Value& id : ids->as_list()) tokens.push_back(id.as_int());
    return tokens;
  }
  if (const Value* messages = record.find_set("messages"); messages && !record.find_set("text")) {
    const TextCodec& codec = required(text, origin);
    if (!codec.has_chat_template())
      fail(ErrorCode::Data, origin, ": \"messages\" need a chat template, which the checkpoint does not have");
    return codec.encode(codec.render(*messages, {}).text, /*add_special_tokens=*/false).ids;
  }
  const Value* found = record.find_set("text");
  if (!found) fail(ErrorCode::Data, origin, ": expected a record with \"text\", \"messages\" or \"input_ids\"");
  return required(text, origin).encode(found->as_string(), /*add_special_tokens=*/true).ids;
}

// All tokens of a file; records are independent, so they are tokenized on all cores.
void append_tokens(const std::filesystem::path& file, const TextCodec* text, std::vector<int64_t>& stream) {
  if (file.extension() == ".txt") {
    const auto ids = required(text, file.string()).encode(read_file(file), /*add_special_tokens=*/true).ids;
    stream.insert(stream.end(), ids.begin(), ids.end());
    return;
  }
  const RecordFile records(file);
  std::vector<std::vector<int64_t>> parts(records.size());
  run_tasks(records.size(), [&](size_t i) {
    const std::string origin = records.origin(i);
    const Value record = records.parse(i);
    parts[i] = with_context(origin, [&] { return tokens_of(record, origin, text); });
  });
  for (const auto& part : parts) stream.insert(stream.end(), part.begin(), part.end());
}

}  // namespace

int64_t calibration_length(const CalibrationSection& section, int64_t context_length) {
  return context_length > 0 ? std::min(section.length, context_length) : section.length;
}

at::Tensor calibration_windows(const CalibrationSection& section, int64_t length, int64_t vocab_size, const TextCodec* text) {
  std::vector<int64_t> stream;
  for (const auto& file : section.files) append_tokens(file, text, stream);
  const int64_t tokens = static_cast<int64_t>(stream.size());
  if (tokens < length)
    fail(ErrorCode::Data, "the texts of [calibration] make ", tokens, " tokens, expected at least one window of ", length,
         ": name more files, or set calibration.length");
  for (const int64_t id : stream)
    if (id < 0 || (vocab_size > 0 && id >= vocab_size))
      fail(ErrorCode::Data, "the texts of [calibration] hold token id ", id, ", the model has ", vocab_size);
  at::Tensor windows = at::empty({section.samples, length}, at::kLong);
  std::mt19937_64 random(static_cast<uint64_t>(section.seed));
  for (int64_t i = 0; i < section.samples; ++i) {
    const auto first = static_cast<int64_t>(random() % static_cast<uint64_t>(tokens - length + 1));
    std::copy_n(stream.begin() + first, length, windows.mutable_data_ptr<int64_t>() + i * length);
  }
  return windows;
}

}  // namespace tenon::host
