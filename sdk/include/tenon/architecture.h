#pragma once
// An architecture knows the families of one or more model_types: which weights there are and how a block computes.
// It reads config.json, never weights; the host fills the slots.
#include <functional>
#include <memory>
#include <string>

#include "tenon/blueprint.h"
#include "tenon/export.h"
#include "tenon/media.h"
#include "tenon/model.h"
#include "tenon/value.h"

namespace tenon {

// What the host hands to build(): the slots and tensors of the blueprint, empty until the fill, and the precision.
class TENON_API Parts {
 public:
  virtual ~Parts();
  virtual const Blueprint& blueprint() const = 0;
  // Error(Internal) for a path that the blueprint does not have. References live as long as the model.
  virtual Slot& slot(const std::string& path) = 0;
  virtual Dense& dense(const std::string& path) = 0;
  virtual Precision precision() const = 0;
  // Where block i of a stack lives; stack -1: 0 for what comes before the blocks, 1 for what comes after.
  virtual at::Device device(int stack, int64_t block) const = 0;
};

class Architecture;

// The architectures that are here, for one that holds another: a model that sees asks for its text model (tenon/backbone.h).
class TENON_API Backbones {
 public:
  virtual ~Backbones();
  // Error(Plugin) with the nearest names when no plugin provides it.
  virtual std::unique_ptr<Architecture> make(const std::string& model_type) = 0;
};

class TENON_API Architecture {
 public:
  virtual ~Architecture();
  // Called once, before anything else; `backbones` outlives the architecture. Default: nothing, for it holds no other.
  virtual void use(Backbones& backbones);
  // config: config.json with the recipe's overrides. Throws Error(Data) naming every key that is missing, of the wrong type, or asks
  // for something this architecture does not do: never runs a model wrong.
  virtual Blueprint blueprint(const Value& config) const = 0;
  // `parts` outlives the model.
  virtual std::unique_ptr<Model> build(const Value& config, Parts& parts) const = 0;
  // What makes tokens and tensors of media. Default: null, for the model reads text alone.
  virtual std::unique_ptr<Processor> processor(const Value& config, const ProcessorFiles& files) const;
};

}  // namespace tenon
