#include "tenon/plugin.h"
#include "chunked_loss.h"

TENON_PLUGIN(.id = "tenon.patch_chunked_loss", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:chunked_loss"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::chunked_loss;
  registrar.patch<Options, ChunkedLoss>("chunked_loss", "Cross-entropy a chunk of tokens at a time, without the whole logits.",
                                        option_table());
}
