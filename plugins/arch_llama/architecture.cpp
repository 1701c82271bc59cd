#include "architecture.h"

#include "blueprint.h"
#include "model.h"

namespace tenon::llama {

Blueprint DecoderArchitecture::blueprint(const Value& config) const { return make_blueprint(read_config(family_, config)); }

std::unique_ptr<Model> DecoderArchitecture::build(const Value& config, Parts& parts) const {
  return std::make_unique<DecoderModel>(read_config(family_, config), parts);
}

}  // namespace tenon::llama
