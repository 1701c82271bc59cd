#pragma once
// Exact resume: what a run needs beside its weights to go on as if it had never stopped. Lies in checkpoint-<step>/ as trainer_state.json and
// trainer_state.safetensors: the trained tensors in full precision, AdamW's moments, the state of the generators that dropout draws from.
#include <filesystem>

#include "tenon/value.h"
#include "train/optimizer.h"

namespace tenon::host {

// counters: whatever the trainer wants back.
void save_training_state(const std::filesystem::path& folder, const AdamW& optimizer, const Value& counters);

// The newest checkpoint-<step> in `folder` that holds a whole state. Error(Recipe) when there is none.
std::filesystem::path find_resume_point(const std::filesystem::path& folder);

// The counters, before anything is changed.
Value read_training_counters(const std::filesystem::path& checkpoint);
// Trained tensors, moments and generators become those of the checkpoint. Error(Data) listing every tensor that does not fit.
void load_training_state(const std::filesystem::path& checkpoint, AdamW& optimizer);

// The number in "checkpoint-120", or -1.
int64_t checkpoint_step(const std::filesystem::path& folder);

}  // namespace tenon::host
