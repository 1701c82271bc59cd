#include "tenon/plugin.h"
#include "dtype.h"
#include "tenon/examples.h"

TENON_PLUGIN(.id = "tenon.patch_dtype", .version = "0.1.0", .license = "Apache-2.0", .provides = {"patch:dtype"})

TENON_REGISTER(tenon::Registrar& registrar) {
  using namespace tenon::dtype;
  registrar.patch<Options, DtypePatch>("dtype", "Which norms, routers, embeddings and heads are kept in float32.", option_table());
}

TENON_EXAMPLES(
    R"({"patch:dtype": [{}, {"norms": "float32", "routers": "float32", "embeddings": "float32", "head": "float32"}, {"norms": "model"}]})")
