#include "tenon/plugin.h"
#include "neftune.h"

TENON_PLUGIN(.id = "tenon.patch_neftune", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:neftune"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::neftune;
  registrar.patch<Options, Neftune>("neftune", "Noise on the embeddings while training (NEFTune).", option_table());
}
