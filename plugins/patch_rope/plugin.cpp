#include "tenon/plugin.h"
#include "rope_scaling.h"

TENON_PLUGIN(.id = "tenon.patch_rope", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:rope_scaling"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::rope;
  registrar.patch<Options, RopeScaling>("rope_scaling", "Longer contexts: linear, dynamic, yarn, longrope or llama3 rotary frequencies.",
                                        option_table());
}
