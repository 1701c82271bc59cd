#include "tenon/plugin.h"
#include "tenon/examples.h"

#include "ia3.h"

TENON_PLUGIN(.id = "org.example.adapter_ia3", .version = "0.1.0", .license = "Apache-2.0", .provides = {"adapter:ia3"})

// For host check-plugin. A random start, which PEFT has too, changes the model and is no example.
TENON_EXAMPLES(R"({"adapter:ia3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}})")

TENON_REGISTER(tenon::Registrar& registrar) {
  using ia3::Options, tenon::option;
  registrar.adapter<Options, ia3::Ia3>(
      "ia3", "(IA)^3: trained vectors that scale keys, values and feed-forward inputs.",
      tenon::option_table<Options>({
          option(&Options::target_modules, "target_modules", "Module names or a regular expression; absent: PEFT's choice for the model."),
          option(&Options::feedforward_modules, "feedforward_modules", "Those among the targets whose input is scaled, not the output."),
          option(&Options::init_ia3_weights, "init_ia3_weights", "Start at ones, which change nothing; false: random."),
      }));
}
