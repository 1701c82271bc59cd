// Any text as a recipe: an Error that says where, or a recipe.
#include "recipe/recipe.h"

#include <cstdint>
#include <cstdlib>

#include "tenon/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    tenon::host::parse_recipe({reinterpret_cast<const char*>(data), size}, "fuzz.toml");
  } catch (const tenon::Error& error) {
    if (error.code() != tenon::ErrorCode::Recipe || error.message().empty()) std::abort();
  }
  return 0;
}
