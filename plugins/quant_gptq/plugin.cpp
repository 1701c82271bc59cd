#include "tenon/plugin.h"
#include "gptq.h"

TENON_PLUGIN(.id = "tenon.quant_gptq", .version = "0.1.0", .license = "Apache-2.0", .provides = {"quantizer:gptq;method=gptq;format=gptq"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::gptq;
  registrar.quantizer<Options, Gptq>("gptq", "2, 3, 4 or 8 bits, calibrated on texts so that outputs change least; GPTQModel's layout.",
                                     option_table());
}
