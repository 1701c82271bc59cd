#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "base/interrupt.h"
#include "base/log.h"
#include "base/text.h"
#include "base/workers.h"
#include "data/formats.h"
#include "data/records.h"
#include "data/shuffle.h"

namespace tenon::host {

namespace {

constexpr size_t kRecordsPerTask = 32;
constexpr size_t kListed = 5;

// All samples of a file in the order of its records.
std::vector<Sample> tokenize_file(const RecordFile& file, const Formatter& formatter) {
  const size_t tasks = (file.size() + kRecordsPerTask - 1) / kRecordsPerTask;
  std::vector<std::vector<Sample>> parts(tasks);
  std::vector<std::vector<std::string>> problems(tasks);
  Progress progress("tokenizing " + file.path().filename().string(), static_cast<int64_t>(file.size()), false);
  run_tasks(tasks, [&](size_t task) {
    throw_if_interrupted();
    const size_t begin = task * kRecordsPerTask, end = std::min(file.size(), begin + kRecordsPerTask);
    for (size_t i = begin; i < end; ++i) {
      Value record;
      try {
        record = file.parse(i);  // says itself where
      } catch (const Error& error) {
        problems[task].push_back(error.what());
        continue;
      }
      try {
        for (Sample& sample : formatter.samples(record, file.origin(i))) parts[task].push_back(std::move(sample));
      } catch (const Error& error) {
        problems[task].push_back(file.origin(i) + ": " + error.what());
      }
    }
    progress.add(static_cast<int64_t>(end - begin));
  });
  progress.finish();

  std::vector<std::string> all;
  for (auto& part : problems) all.insert(all.end(), part.begin(), part.end());
  if (!all.empty()) {
    std::string text = concat(all.size(), " of ", file.size(), " records of ", file.path().string(), " cannot be used:");
    for (size_t i = 0; i < all.size() && i < kListed; ++i) text += "\n  " + all[i];
    if (all.size() > kListed) text += concat("\n  and ", all.size() - kListed, " more");
    fail(ErrorCode::Data, text);
  }
  std::vector<Sample> samples;
  for (auto& part : parts) std::move(part.begin(), part.end(), std::back_inserter(samples));
  return samples;
}

bool trains_an_end(const Sample& sample, const TextCodec* text, const std::vector<int64_t>& end_ids) {
  for (size_t i = 1; i < sample.ids.size(); ++i) {
    const int64_t id = sample.labels[i];
    if (id == kIgnore) continue;
    if (std::find(end_ids.begin(), end_ids.end(), id) != end_ids.end()) return true;
    if (text && (id == text->eos() || text->is_special(id))) return true;
  }
  return false;
}

// Applies data.overlong and drops what trains nothing.
std::vector<Sample> screened(std::vector<Sample> all, const DataSection& data, FileSummary& summary) {
  std::vector<Sample> kept;
  for (Sample& sample : all) {
    if (static_cast<int64_t>(sample.ids.size()) > data.max_length) {
      if (data.overlong == "error")
        fail(ErrorCode::Data, sample.origin, ": ", sample.ids.size(), " tokens, data.max_length is ", data.max_length,
             ": raise it, or set data.overlong to drop or truncate");
      ++summary.counts.overlong;
      if (summary.first_overlong.empty()) summary.first_overlong = sample.origin;
      // A cut through a picture's tokens would leave more of it than its places.
      if (data.overlong == "drop" || !sample.media.empty()) continue;
      sample.ids.resize(static_cast<size_t>(data.max_length));
      sample.labels.resize(static_cast<size_t>(data.max_length));
    }
    if (trained_tokens(sample) == 0) {
      ++summary.counts.untrained;
      if (summary.first_untrained.empty()) summary.first_untrained = sample.origin;
      continue;
    }
    kept.push_back(std::move(sample));
  }
  return kept;
}

void check(const FileSummary& summary, int64_t found, const DataSection& data, bool has_turns) {
  const DataCounts& counts = summary.counts;
  if (counts.overlong == found && data.overlong == "drop")
    fail(ErrorCode::Data, summary.path, ": all ", found, " samples are longer than data.max_length ", data.max_length, " (first ",
         summary.first_overlong, "): raise it, or set data.overlong = \"truncate\"");
  const int64_t left = counts.samples + counts.untrained;
  if (counts.samples == 0 || counts.untrained > left / 2)
    fail(ErrorCode::Data, summary.path, ": ", counts.untrained, " of ", left, " samples have no trained token (first ",
         summary.first_untrained, "): ", counts.overlong > 0 ? "raise data.max_length, or check" : "check",
         " data.format, the chat template and the roles; `host data` shows tokens with labels");
  if (has_turns && counts.without_end == counts.samples)
    fail(ErrorCode::Data, summary.path,
         ": no sample trains an end of turn (no special token is among the trained ones), so the model would never learn to stop: ",
         counts.overlong > 0 ? "every answer is cut off by data.max_length, or " : "",
         "the chat template ends turns outside of what is trained, or its end-of-turn text is not a token (text.add_tokens)");
}

void add(DataCounts& sum, const DataCounts& part) {
  sum.records += part.records;
  sum.overlong += part.overlong;
  sum.untrained += part.untrained;
  sum.media += part.media;
  sum.without_end += part.without_end;
}

// How often each sample of a file is used: the whole part of the weight, and a random share for the rest.
std::vector<int64_t> uses(size_t count, double weight, int64_t seed, size_t file) {
  const auto whole = static_cast<int64_t>(std::floor(weight));
  std::vector<int64_t> times(count, whole);
  const auto share = static_cast<size_t>(std::llround((weight - static_cast<double>(whole)) * static_cast<double>(count)));
  const std::vector<int64_t> order = shuffled(static_cast<int64_t>(count), seed, -2 - static_cast<int64_t>(file));
  for (size_t i = 0; i < share; ++i) ++times[static_cast<size_t>(order[i])];
  return times;
}

}  // namespace

int64_t trained_tokens(const Sample& sample) {
  int64_t count = 0;
  for (size_t i = 1; i < sample.labels.size(); ++i) count += sample.labels[i] != kIgnore;
  return count;
}

bool needs_text(const DataSection& data, bool is_eval) {
  const auto& files = is_eval ? data.eval : data.train;
  return std::any_of(files.begin(), files.end(),
                     [&](const DataFile& file) { return (file.format.empty() ? data.format : file.format) != "tokenized"; });
}

Dataset build_dataset(const DatasetRequest& request) {
  const DataSection& data = *request.data;
  if (request.sample_kind != "tokens")
    fail(ErrorCode::Recipe, "the objective needs samples of kind '", request.sample_kind, "', which are not served yet");
  const auto& files = request.is_eval ? data.eval : data.train;
  Dataset set;
  set.max_length = data.max_length;
  set.is_packed = data.packing;
  set.processor = request.media.processor;
  std::vector<int64_t> used, lengths;  // sample of each use, and its length
  for (size_t f = 0; f < files.size(); ++f) {
    const DataFile& file = files[f];
    FormatOptions options{file.format.empty() ? data.format : file.format,
                          data.fields,
                          data.max_length,
                          data.train_on_inputs,
                          request.vocab_size,
                          request.media_folder.empty() ? file.path.parent_path() : request.media_folder,
                          request.media};
    if (options.format == "preference")
      fail(ErrorCode::Recipe,
           "data.format = \"preference\" holds pairs, and the objective needs labelled tokens: choose an objective for pairs");
    const Formatter formatter(options, request.text);
    const RecordFile records(file.path);
    FileSummary summary{file.path.string(), options.format, file.weight, {}, {}, {}};
    summary.counts.records = static_cast<int64_t>(records.size());
    std::vector<Sample> samples = tokenize_file(records, formatter);
    const auto found = static_cast<int64_t>(samples.size());
    samples = screened(std::move(samples), data, summary);
    const std::vector<int64_t> times = uses(samples.size(), file.weight, request.seed, f);
    summary.counts.samples = static_cast<int64_t>(samples.size());
    for (size_t i = 0; i < samples.size(); ++i) {
      const auto length = static_cast<int64_t>(samples[i].ids.size());
      summary.counts.tokens += length;
      summary.counts.trained_tokens += trained_tokens(samples[i]);
      summary.counts.media += static_cast<int64_t>(samples[i].media.size());
      summary.counts.without_end += !trains_an_end(samples[i], request.text, request.end_ids);
      for (int64_t n = 0; n < times[i]; ++n) used.push_back(static_cast<int64_t>(set.samples.size() + i)), lengths.push_back(length);
    }
    check(summary, found, data, formatter.has_turns());
    add(set.counts, summary.counts);
    std::move(samples.begin(), samples.end(), std::back_inserter(set.samples));
    set.files.push_back(std::move(summary));
  }
  set.rows = data.packing ? pack_rows(lengths, data.max_length) : single_rows(lengths);
  for (Row& row : set.rows)
    for (int64_t& sample : row.samples) sample = used[static_cast<size_t>(sample)];
  for (int64_t sample : used) {
    set.counts.tokens += static_cast<int64_t>(set.samples[static_cast<size_t>(sample)].ids.size());
    set.counts.trained_tokens += trained_tokens(set.samples[static_cast<size_t>(sample)]);
  }
  set.counts.samples = static_cast<int64_t>(used.size());

  for (const FileSummary& file : set.files) {
    const DataCounts& counts = file.counts;
    if (counts.overlong > 0)
      set.warnings.push_back(concat(file.path, ": ", counts.overlong, data.overlong == "drop" ? " samples dropped" : " samples truncated",
                                    ", longer than ", data.max_length, " tokens (first ", file.first_overlong, ")"));
    if (counts.untrained > 0)
      set.warnings.push_back(
          concat(file.path, ": ", counts.untrained, " samples dropped, no trained token (first ", file.first_untrained, ")"));
    if (counts.without_end > 0 && file.format != "completion")
      set.warnings.push_back(concat(file.path, ": ", counts.without_end, " of ", counts.samples, " samples train no end of turn"));
  }
  return set;
}

}  // namespace tenon::host
