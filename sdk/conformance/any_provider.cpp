#include "any_provider.h"

#include "sample_text.h"

namespace tenon::conformance {

namespace {

template <class Interface>
void add(std::vector<AnyProvider>& all, const char* kind, const std::vector<Provider<Interface>>& providers) {
  for (const auto& provider : providers)
    all.push_back({kind, provider.name, provider.summary, &provider.options, [&provider](const Value& options) {
                     std::unique_ptr<Interface> made;
                     if constexpr (std::is_same_v<Interface, TextCodec>)
                       made = provider.make(sample_text_files(), options);
                     else
                       made = provider.make(options);
                     expect(made != nullptr, "make returned nothing");
                   }});
}

}  // namespace

std::vector<AnyProvider> all_providers(const Registrar& r) {
  std::vector<AnyProvider> all;
  add(all, "quantizer", r.quantizers);
  add(all, "architecture", r.architectures);
  add(all, "patch", r.patches);
  add(all, "adapter", r.adapters);
  add(all, "objective", r.objectives);
  add(all, "text", r.text_codecs);
  return all;
}

AnyProvider any_provider(Context& context) {
  for (auto& provider : all_providers(context.registrar()))
    if (provider.kind == context.provided().kind && provider.name == context.provided().name) return provider;
  failed("the registration holds no ", context.provided().subject());
}

}  // namespace tenon::conformance
