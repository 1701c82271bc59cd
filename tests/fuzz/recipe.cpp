// Any text as a recipe, and what follows a NUL as --set arguments: an Error that says where, or a recipe.
#include "recipe/recipe.h"

#include <cstdint>
#include <cstdlib>

#include "base/text.h"
#include "tenon/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> parts = tenon::host::split({reinterpret_cast<const char*>(data), size}, '\0');
  const std::string toml = parts.front();
  parts.erase(parts.begin());
  try {
    tenon::host::parse_recipe(toml, "fuzz.toml", parts);
  } catch (const tenon::Error& error) {
    const bool is_expected = error.code() == tenon::ErrorCode::Recipe || (error.code() == tenon::ErrorCode::Usage && !parts.empty());
    if (!is_expected || error.message().empty()) std::abort();
  }
  return 0;
}
