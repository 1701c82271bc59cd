#include "tenon/plugin.h"
#include "rope_scaling.h"
#include "tenon/examples.h"

TENON_PLUGIN(.id = "tenon.patch_rope", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:rope_scaling"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::rope;
  registrar.patch<Options, RopeScaling>("rope_scaling", "Longer contexts: linear, dynamic, yarn, longrope or llama3 rotary frequencies.",
                                        option_table());
}

// Without a factor it refuses to work.
TENON_EXAMPLES(R"({"patch:rope_scaling": [
  {"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0},
  {"rope_type": "llama3", "factor": 8.0},
  {"rope_type": "longrope", "factor": 2.0, "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [1, 1, 2, 2, 3, 3, 4, 4]}
]})")
