#include "image_steps.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>

#include "tenon/error.h"
#include "tenon/nn/config_reader.h"

namespace tenon::vlm {

namespace {

constexpr int64_t kMaxEdge = 1 << 15;
// As PIL numbers them. Lanczos is what its processor falls back to bicubic for.
constexpr int64_t kNearest = 0, kLanczos = 1, kBilinear = 2, kBicubic = 3;

int64_t edge_of(nn::ConfigReader& reader, const std::string& name, const Value& table, const char* key) {
  const Value* value = table.find_set(key);
  if (value && value->is_int() && value->as_int() >= 1 && value->as_int() <= kMaxEdge) return value->as_int();
  reader.problem(concat(name, ".", key, " is ", value ? nn::ConfigReader::show(*value) : "absent", ", expected 1 to ", kMaxEdge));
  return 1;
}

Size square(int64_t edge) { return {edge, edge}; }

void read_size(nn::ConfigReader& reader, ImageSteps& steps, bool is_siglip) {
  const Value* value = reader.config().find_set("size");
  if (!value) return;
  if (value->is_int() && value->as_int() >= 1 && value->as_int() <= kMaxEdge) {
    steps.shortest_edge = is_siglip ? std::nullopt : std::optional(value->as_int());
    steps.size = square(value->as_int());
  } else if (value->is_table() && value->find_set("shortest_edge") && !value->find_set("longest_edge")) {
    steps.shortest_edge = edge_of(reader, "size", *value, "shortest_edge");
  } else if (value->is_table() && (value->find_set("height") || value->find_set("width"))) {
    steps.shortest_edge.reset();
    steps.size = {edge_of(reader, "size", *value, "height"), edge_of(reader, "size", *value, "width")};
  } else {
    reader.problem(concat("size is ", nn::ConfigReader::show(*value), ", expected {shortest_edge}, {height, width} or a number"));
  }
}

void read_crop(nn::ConfigReader& reader, ImageSteps& steps) {
  const Value* value = reader.config().find_set("crop_size");
  if (!value) return;
  if (value->is_int() && value->as_int() >= 1 && value->as_int() <= kMaxEdge)
    steps.crop = square(value->as_int());
  else if (value->is_table())
    steps.crop = {edge_of(reader, "crop_size", *value, "height"), edge_of(reader, "crop_size", *value, "width")};
  else
    reader.problem(concat("crop_size is ", nn::ConfigReader::show(*value), ", expected {height, width} or a number"));
}

void read_colours(nn::ConfigReader& reader, const char* key, std::array<double, 3>& target) {
  const Value* value = reader.config().find_set(key);
  if (!value) return;
  if (value->is_number()) return target.fill(value->as_float());
  const bool is_list = value->is_list() && value->as_list().size() == 3;
  if (!is_list || !std::all_of(value->as_list().begin(), value->as_list().end(), [](const Value& v) { return v.is_number(); }))
    return reader.problem(concat(key, " is ", nn::ConfigReader::show(*value), ", expected three numbers"));
  for (size_t i = 0; i < 3; ++i) target[i] = value->as_list()[i].as_float();
}

at::Tensor float_tensor(const std::array<double, 3>& values) {
  return at::tensor({static_cast<float>(values[0]), static_cast<float>(values[1]), static_cast<float>(values[2])}, at::kFloat);
}

// Black or one colour around a picture.
at::Tensor padded(const at::Tensor& rgb, Size size, int64_t top, int64_t left, const std::array<uint8_t, 3>& colour) {
  at::Tensor out = at::empty({3, size.height, size.width}, rgb.options());
  for (int64_t c = 0; c < 3; ++c) out.select(0, c).fill_(colour[static_cast<size_t>(c)]);
  out.narrow(1, top, rgb.size(1)).narrow(2, left, rgb.size(2)).copy_(rgb);
  return out;
}

}  // namespace

void read_pixel_steps(nn::ConfigReader& reader, ImageSteps& steps) {
  steps.resizes = reader.flag("do_resize", true);
  steps.rescales = reader.flag("do_rescale", true);
  steps.normalizes = reader.flag("do_normalize", true);
  steps.rescale_factor = reader.number("rescale_factor", 1.0 / 255, 1e-9, 1e9);
  read_colours(reader, "image_mean", steps.mean);
  read_colours(reader, "image_std", steps.std);
  if (std::any_of(steps.std.begin(), steps.std.end(), [](double d) { return d == 0; })) reader.problem("image_std holds 0, which divides");
  const int64_t own = steps.resample == Resample::Bilinear ? kBilinear : steps.resample == Resample::Nearest ? kNearest : kBicubic;
  switch (const int64_t resample = reader.integer("resample", own, 0, 5)) {
    case kNearest: steps.resample = Resample::Nearest; break;
    case kBilinear: steps.resample = Resample::Bilinear; break;
    case kLanczos:
    case kBicubic: steps.resample = Resample::Bicubic; break;
    default: reader.problem(concat("resample is ", resample, ", expected 0 (nearest), 2 (bilinear) or 3 (bicubic)"));
  }
}

void finish_steps(const nn::ConfigReader& reader, const ProcessorFiles& files, const std::string& file) {
  try {
    reader.finish("image processor");
  } catch (const Error& error) {
    // The reader speaks of config.json.
    const std::string& text = error.message();
    fail(ErrorCode::Data, files.folder, "/", file, text.substr(text.find("')") + 2));
  }
}

ImageSteps read_image_steps(const ProcessorFiles& files, int64_t edge, bool is_siglip) {
  const Value none = Value::table();
  nn::ConfigReader reader(files.preprocessor.is_null() ? none : files.preprocessor);
  ImageSteps steps;
  steps.size = steps.crop = square(edge);
  if (!is_siglip) steps.shortest_edge = edge;
  if (is_siglip) steps.mean = steps.std = {0.5, 0.5, 0.5};
  steps.pads_to_square = reader.flag("do_pad", false);
  steps.crops = reader.flag("do_center_crop", !is_siglip);
  read_size(reader, steps, is_siglip);
  read_crop(reader, steps);
  read_pixel_steps(reader, steps);
  finish_steps(reader, files);
  return steps;
}

Size resized(const ImageSteps& steps, Size picture) {
  if (!steps.shortest_edge) return steps.size;
  const int64_t shorter = std::min(picture.height, picture.width), longer = std::max(picture.height, picture.width);
  // In floating point and cut off, as the reference counts.
  const auto other = static_cast<int64_t>(static_cast<double>(*steps.shortest_edge * longer) / static_cast<double>(shorter));
  if (other > kMaxEdge * 16)
    fail(ErrorCode::Data, "a picture of ", picture.width, " x ", picture.height, " would become ", other, " pixels long, expected ",
         kMaxEdge * 16, " or less: cut it");
  return picture.width <= picture.height ? Size{other, *steps.shortest_edge} : Size{*steps.shortest_edge, other};
}

at::Tensor resize(const at::Tensor& rgb, Size size, Resample resample) {
  if (rgb.size(1) == size.height && rgb.size(2) == size.width) return rgb;
  const at::Tensor x = rgb.unsqueeze(0);
  const std::array<int64_t, 2> to = {size.height, size.width};
  switch (resample) {
    case Resample::Nearest: return at::upsample_nearest2d(x, to).squeeze(0);
    case Resample::Bilinear: return at::_upsample_bilinear2d_aa(x, to, /*align_corners=*/false).squeeze(0);
    case Resample::Bicubic: return at::_upsample_bicubic2d_aa(x, to, /*align_corners=*/false).squeeze(0);
  }
  fail(ErrorCode::Internal, "no such way to resize");
}

at::Tensor center_crop(const at::Tensor& rgb, Size size) {
  at::Tensor x = rgb;
  const int64_t above = std::max<int64_t>(0, size.height - x.size(1)), beside = std::max<int64_t>(0, size.width - x.size(2));
  if (above > 0 || beside > 0) x = padded(x, {x.size(1) + above, x.size(2) + beside}, above / 2, beside / 2, {});
  return x.narrow(1, (x.size(1) - size.height) / 2, size.height).narrow(2, (x.size(2) - size.width) / 2, size.width);
}

at::Tensor normalize(const at::Tensor& rgb, const ImageSteps& steps) {
  at::Tensor x = rgb.to(at::kFloat);
  if (!steps.normalizes) return steps.rescales ? x * steps.rescale_factor : x;
  at::Tensor mean = float_tensor(steps.mean), std = float_tensor(steps.std);
  // The scale goes into the two, as the reference does it.
  if (steps.rescales) mean = mean * (1 / steps.rescale_factor), std = std * (1 / steps.rescale_factor);
  return (x - mean.view({3, 1, 1})).div_(std.view({3, 1, 1}));
}

at::Tensor apply(const ImageSteps& steps, const at::Tensor& rgb) {
  at::Tensor x = rgb;
  if (steps.pads_to_square && x.size(1) != x.size(2)) {
    const int64_t edge = std::max(x.size(1), x.size(2));
    std::array<uint8_t, 3> colour;
    for (size_t i = 0; i < 3; ++i) colour[i] = static_cast<uint8_t>(std::clamp(steps.mean[i] * 255, 0.0, 255.0));
    x = padded(x, square(edge), (edge - x.size(1)) / 2, (edge - x.size(2)) / 2, colour);
  }
  if (steps.resizes) x = resize(x, resized(steps, {x.size(1), x.size(2)}), steps.resample);
  if (steps.crops) x = center_crop(x, steps.crop);
  return normalize(x, steps);
}

}  // namespace tenon::vlm
