#pragma once
// What `host check-plugin` tries a plugin with, besides what it makes up itself. Optional; nothing but checks reads it. One source file holds
//
//   TENON_EXAMPLES(R"({"architecture:mine": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}, "adapter:mine": {"r": 4}})")
//
// JSON: "kind:name" -> a small config.json of an architecture, options of an adapter or a patch; a list holds several.
#include "tenon/export.h"

#define TENON_EXAMPLES(json)                                \
  extern "C" TENON_API const char* tenon_plugin_examples(); \
  extern "C" const char* tenon_plugin_examples() { return json; }
