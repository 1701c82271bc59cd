#include "architecture.h"

#include "blueprint.h"
#include "model.h"

namespace tenon::lfm2 {

Blueprint Lfm2Architecture::blueprint(const Value& config) const { return make_blueprint(read_config(config)); }

std::unique_ptr<Model> Lfm2Architecture::build(const Value& config, Parts& parts) const {
  return std::make_unique<Lfm2Model>(read_config(config), parts);
}

}  // namespace tenon::lfm2
