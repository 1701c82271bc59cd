// Out-of-line destructors: one home for each interface's vtable and type information.
#include "tenon/adapter.h"
#include "tenon/architecture.h"
#include "tenon/filler.h"
#include "tenon/media.h"
#include "tenon/model.h"
#include "tenon/objective.h"
#include "tenon/patch.h"
#include "tenon/quantizer.h"
#include "tenon/text.h"

namespace tenon {

Quantizer::~Quantizer() = default;
Filler::~Filler() = default;
Model::~Model() = default;
at::Tensor Model::auxiliary_loss(const State&) { return {}; }
Cache::~Cache() = default;
Parts::~Parts() = default;
Architecture::~Architecture() = default;
Backbones::~Backbones() = default;
Processor::~Processor() = default;
void Architecture::use(Backbones&) {}
std::unique_ptr<Processor> Architecture::processor(const Value&, const ProcessorFiles&) const { return nullptr; }
Patch::~Patch() = default;
Adapter::~Adapter() = default;
Objective::~Objective() = default;
ObjectiveContext::~ObjectiveContext() = default;
StreamDecoder::~StreamDecoder() = default;
TextCodec::~TextCodec() = default;

}  // namespace tenon
