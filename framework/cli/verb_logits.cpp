#include <ATen/ops/tensor.h>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "cli/session_options.h"
#include "generate/prompts.h"

namespace tenon::host {

namespace {

at::Tensor read_ids(const std::filesystem::path& file) {
  const Value json = read_json_file(file);
  return with_context(file.string(), [&] {
    std::vector<int64_t> ids;
    const auto& rows = json.as_list();
    if (rows.empty() || rows[0].as_list().empty()) fail(ErrorCode::Data, "expected a list of lists of token ids, found an empty one");
    for (const auto& row : rows) {
      if (row.as_list().size() != rows[0].as_list().size())
        fail(ErrorCode::Data, "the lists have ", rows[0].as_list().size(), " and ", row.as_list().size(),
             " ids: they must be equally long");
      for (const auto& id : row.as_list()) ids.push_back(id.as_int());
    }
    return at::tensor(ids, at::kLong).view({static_cast<int64_t>(rows.size()), -1});
  });
}

std::map<std::string, at::Tensor> read_media(const std::filesystem::path& file) {
  const SafetensorsFile tensors(file);
  std::map<std::string, at::Tensor> media;
  for (const auto& name : tensors.names()) media[name] = tensors.read(name);
  return media;
}

}  // namespace

int verb_logits(const Args& args) {
  const std::filesystem::path out = required_flag(args, "out");
  const auto messages = args.get<std::string>("messages"), tokens = args.get<std::string>("tokens"), media = args.get<std::string>("media");
  if (messages.has_value() == tokens.has_value()) fail(ErrorCode::Usage, "give either --tokens or --messages");
  if (messages && media) fail(ErrorCode::Usage, "--media goes with --tokens; messages name their media themselves");
  if (messages) {
    const std::vector<Value> conversations = read_conversations(*messages);
    Session session(args.recipe, session_options(args));
    const MessageLogits found = session.message_logits(conversations, args.on("add-generation-prompt"));
    write_safetensors(out, {{"logits", found.logits}, {"ids", found.ids}, {"mask", found.mask}});
    return 0;
  }
  const at::Tensor ids = read_ids(*tokens);
  const auto tensors = media ? read_media(*media) : std::map<std::string, at::Tensor>{};
  Session session(args.recipe, session_options(args));
  write_safetensors(out, {{"logits", session.logits(ids, tensors)}});
  return 0;
}

}  // namespace tenon::host
