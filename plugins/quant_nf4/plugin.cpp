#include "tenon/stable/plugin.h"
#include "nf4.h"

TENON_STABLE_PLUGIN(.id = "tenon.quant_nf4", .version = "0.1.0", .license = "Apache-2.0",
                    .provides = {"quantizer:nf4;method=bitsandbytes;format=bnb", "quantizer:fp4;method=bitsandbytes;format=bnb"})

TENON_STABLE_REGISTER(tenon::stable::Registrar& registrar) {
  using namespace tenon::nf4;
  registrar.quantizer<Options, Nf4>("nf4", "4-bit NormalFloat in blocks that share an absmax; bitsandbytes' layout.", option_table());
  registrar.quantizer<Options, Fp4>("fp4", "4-bit floating point in blocks that share an absmax; bitsandbytes' layout.", option_table());
}
