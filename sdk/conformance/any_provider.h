#pragma once
// Providers of any kind, for checks that ask the same of all.
#include <functional>
#include <string>

#include "check.h"

namespace tenon::conformance {

struct AnyProvider {
  std::string kind, name, summary;
  const OptionTable* options = nullptr;
  std::function<void(const Value&)> make;  // makes one and lets it go; Failed when it returns nothing
};

AnyProvider any_provider(Context& context);  // the one of context.provided()
// `text`: what text codecs are made from.
std::vector<AnyProvider> all_providers(const Registrar& registrar, const TextFiles& text = {});

}  // namespace tenon::conformance
