#pragma once
// The samples of a training or evaluation set, read from files, checked and counted.
#include <cstdint>
#include <string>
#include <vector>

#include "data/packing.h"
#include "model/media_support.h"
#include "recipe/recipe.h"
#include "tenon/objective.h"
#include "tenon/text.h"

namespace tenon::host {

struct DatasetRequest {
  const DataSection* data = nullptr;
  bool is_eval = false;                     // data->eval instead of data->train
  const TextCodec* text = nullptr;          // may be null for tokenized data
  std::vector<int64_t> end_ids;             // tokens that end a generation
  int64_t vocab_size = 0;                   // of the model; 0: ids are not checked
  int64_t seed = 0;                         // for shares of files
  std::string sample_kind = "tokens";       // what the objective needs
  MediaSupport media = {};                  // of the model
  std::filesystem::path media_folder = {};  // of relative paths in records; empty: that of the file they stand in
};

struct DataCounts {
  int64_t records = 0, samples = 0;
  int64_t tokens = 0, trained_tokens = 0;
  int64_t overlong = 0;     // dropped or truncated, as data.overlong says
  int64_t untrained = 0;    // dropped: no trained token
  int64_t media = 0;        // pictures and the like, of the samples
  int64_t without_end = 0;  // samples that train no end of turn
};

struct FileSummary {
  std::string path, format;
  double weight = 1;
  DataCounts counts;
  std::string first_overlong, first_untrained;  // origins, "" when there is none
};

struct Dataset {
  std::vector<Sample> samples;
  std::vector<Row> rows;  // a sample may stand in several rows when its file weighs more than 1
  std::vector<FileSummary> files;
  DataCounts counts;  // of all files; tokens as trained on, weights included
  std::vector<std::string> warnings;
  int64_t max_length = 0;
  bool is_packed = false;
  std::shared_ptr<const Processor> processor;  // of the samples' media
};

// Reads and tokenizes on all cores. Throws one Error(Data) that lists the records that cannot be used (each with its line), and when a file has
// no trained tokens, when more than half of its samples have none, when no sample trains the end of its turn, or when data.overlong is "error"
// and a sample is longer than max_length.
Dataset build_dataset(const DatasetRequest& request);

// Whether reading the files takes a tokenizer: all formats but "tokenized" do.
bool needs_text(const DataSection& data, bool is_eval);

// Tokens that a sample trains: labels behind the first position.
int64_t trained_tokens(const Sample& sample);

}  // namespace tenon::host
