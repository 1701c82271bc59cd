#pragma once
// A patch changes the config, the blueprint, the seams or the loaded model: four moments, each optional, each called once.
#include <string>

#include "tenon/blueprint.h"
#include "tenon/export.h"
#include "tenon/model.h"
#include "tenon/value.h"

namespace tenon {

class TENON_API Patch {
 public:
  virtual ~Patch();
  // Each returns whether it changed anything; a patch that changes nothing at all is reported.
  virtual bool on_config(Value& /*config*/) { return false; }
  virtual bool on_blueprint(Blueprint&) { return false; }
  virtual bool on_seams(Seams&) { return false; }
  virtual bool on_model(Model&) { return false; }
};

}  // namespace tenon
