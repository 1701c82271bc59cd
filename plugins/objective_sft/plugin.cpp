// The sft objective's entry: its manifest and registration.
#include "tenon/plugin.h"

#include "sft.h"

TENON_PLUGIN(.id = "tenon.objective_sft", .version = "0.1.0", .license = "Apache-2.0", .provides = {"objective:sft;default=yes"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::sft;
  registrar.objective<SftOptions, Sft>("sft", "Supervised fine-tuning: mean negative log-likelihood of the trained tokens.",
                                       tenon::option_table<SftOptions>({}));
}
