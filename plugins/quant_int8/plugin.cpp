#include "int8.h"

TENON_STABLE_PLUGIN(.id = "tenon.quant_int8", .version = "0.1.0", .license = "Apache-2.0",
                    .provides = {"quantizer:int8;method=bitsandbytes;format=bnb"})

TENON_STABLE_REGISTER(tenon::stable::Registrar& registrar) {
  using namespace tenon::int8;
  registrar.quantizer<Options, Int8>("int8", "LLM.int8(): 8-bit rows with outlier columns apart; bitsandbytes' layout.", option_table());
}
