#include "tenon/plugin.h"
#include "resize.h"
#include "tenon/examples.h"

TENON_PLUGIN(.id = "tenon.patch_resize", .version = "0.1.0", .license = "Apache-2.0",
             .provides = {"patch:resize_embeddings;serves=new_tokens"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::resize;
  registrar.patch<Options, ResizeEmbeddings>("resize_embeddings", "More rows in the embedding and the output head, for new tokens.",
                                             option_table());
}

TENON_EXAMPLES(R"({"patch:resize_embeddings": [
  {"new_num_tokens": 101}, {"pad_to_multiple_of": 64}, {"new_num_tokens": 101, "pad_to_multiple_of": 8, "mean_resizing": false}
]})")
