#pragma once
// Pictures (and sounds): named in messages, and turned into tokens and tensors by the processor that comes with an architecture.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tenon/export.h"
#include "tenon/value.h"

namespace tenon {

// One part of a message that is no text.
struct Medium {
  std::string kind;  // "image"
  std::string file;  // path
};

// What a processor is made from: a checkpoint's files as far as they are there, and what the recipe's [media] changes.
struct ProcessorFiles {
  Value preprocessor;  // preprocessor_config.json, else processor_config.json's "image_processor"; null: neither is there
  Value processor;     // processor_config.json; null: it is not there
  std::string folder;  // for error texts
  std::optional<int64_t> image_size, min_pixels, max_pixels;
  int64_t decode_limit = 0;  // pixels that one file may hold, as its header says
};

// Thread-safe after construction.
class TENON_API Processor {
 public:
  virtual ~Processor();
  // The kinds of media that it takes: {"image"}.
  virtual std::vector<std::string> kinds() const = 0;
  // The token that a chat template writes where a medium of this kind stands.
  virtual int64_t placeholder(const std::string& kind) const = 0;
  // The tokens that take its place, which are never trained. Reads the file's header alone; Error(Data) for a file that cannot be one.
  virtual std::vector<int64_t> tokens(const Medium& medium) const = 0;
  // Batch::media for all media of a batch, row by row in the order of their tokens; at least one. Error(Data) for a damaged file.
  virtual std::map<std::string, at::Tensor> load(const std::vector<Medium>& media) const = 0;
};

}  // namespace tenon
