#pragma once
// The texts that calibrated quantizers look at: windows of equal length out of the recipe's [calibration] files.
#include <ATen/core/Tensor.h>

#include "recipe/recipe.h"
#include "tenon/text.h"

namespace tenon::host {

// Tokens in a window: the recipe's, or what the model can hold.
int64_t calibration_length(const CalibrationSection& section, int64_t context_length);

// [samples, length] int64. All texts are tokenized, with the special tokens that the tokenizer puts around a text, and laid behind one another in
// the order of the files; each sample is a window of that stream, its beginning drawn at random from `seed`. `text` may be null for records that
// hold "input_ids". Error(Data) when the texts are shorter than one window, hold ids outside the vocabulary, or cannot be read.
at::Tensor calibration_windows(const CalibrationSection& section, int64_t length, int64_t vocab_size, const TextCodec* text);

}  // namespace tenon::host
