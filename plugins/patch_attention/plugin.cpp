#include "tenon/plugin.h"
#include "attention.h"
#include "tenon/examples.h"

TENON_PLUGIN(.id = "tenon.patch_attention", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:attention"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::attention;
  registrar.patch<Options, AttentionPatch>("attention", "Which attention a model computes with: eager, sdpa or flash; a sliding window.",
                                           option_table());
}

TENON_EXAMPLES(R"({"patch:attention": [
  {}, {"implementation": "eager"}, {"implementation": "flash"}, {"implementation": "flash", "sliding_window": 4}, {"sliding_window": 5}
]})")
