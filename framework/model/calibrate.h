#pragma once
// Calibrated quantizers fill block by block, running the part of the model that is already there: the block's weights come dense, the texts of
// [calibration] run through it while observers look at the inputs, its slots are quantized, and it runs once more to make the next block's inputs.
// One block's activations are in memory at a time. The fill (fill.h) has done everything else before.
#include <filesystem>
#include <set>

#include "model/fill.h"
#include "tenon/text.h"

namespace tenon::host {

struct CalibrationRequest {
  FillRequest fill;  // as it was for everything else
  Model& model;
  const CalibrationSection& section;
  const std::set<std::string>& slots;  // paths that calibrated_slots() names
  const TextCodec* text = nullptr;     // may be null when the texts are tokenized already
  std::filesystem::path folder;        // where finished blocks are kept, so that a killed run goes on behind them; empty: nowhere
  Value recipe;                        // what else the result depends on: part of the key of the kept blocks
};

struct CalibratedModule {
  std::string path;
  int64_t tokens = 0;
  bool rounded = false;  // too few tokens came by: quantized without calibration
};

struct CalibrationReport {
  std::vector<CalibratedModule> modules;  // in the order in which they were quantized; of kept blocks none
  int64_t tokens = 0, blocks_kept = 0;    // of the texts; blocks taken over from an earlier run
  double seconds = 0;
};

// Slots whose quantizer asks for calibration and which are not stored packed: linear ones in blocks, and the output head. Others are quantized without.
std::set<std::string> calibrated_slots(const Blueprint& blueprint, const Plan& plan, const std::vector<ActiveQuantizer>& quantizers);

CalibrationReport calibrate(const CalibrationRequest& request);

// What calibration holds at its peak beyond the model: the hidden states of all samples, one block dense, its observers, one batch at work.
int64_t calibration_bytes(const Blueprint& blueprint, const Plan& plan, const std::set<std::string>& slots,
                          const CalibrationSection& section, const Precision& precision);

}  // namespace tenon::host
