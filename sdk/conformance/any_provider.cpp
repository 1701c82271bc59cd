#include "any_provider.h"

#include "sample_text.h"

namespace tenon::conformance {

namespace {

template <class Interface>
void add(std::vector<AnyProvider>& all, const char* kind, const std::vector<Provider<Interface>>& providers, const TextFiles& text = {}) {
  for (const auto& provider : providers)
    all.push_back({kind, provider.name, provider.summary, &provider.options, [&provider, text](const Value& options) {
                     std::unique_ptr<Interface> made;
                     if constexpr (std::is_same_v<Interface, TextCodec>)
                       made = provider.make(text, options);
                     else
                       made = provider.make(options);
                     expect(made != nullptr, "make returned nothing");
                   }});
}

}  // namespace

std::vector<AnyProvider> all_providers(const Registrar& r, const TextFiles& text) {
  std::vector<AnyProvider> all;
  add(all, "quantizer", r.quantizers);
  add(all, "architecture", r.architectures);
  add(all, "patch", r.patches);
  add(all, "adapter", r.adapters);
  add(all, "objective", r.objectives);
  add(all, "text", r.text_codecs, text);
  return all;
}

AnyProvider any_provider(Context& context) {
  const TextFiles text = context.provided().kind == "text" ? text_files_of(context) : sample_text_files();
  for (auto& provider : all_providers(context.registrar(), text))
    if (provider.kind == context.provided().kind && provider.name == context.provided().name) return provider;
  failed("the registration holds no ", context.provided().subject());
}

}  // namespace tenon::conformance
