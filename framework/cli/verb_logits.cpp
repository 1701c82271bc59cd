#include <ATen/ops/tensor.h>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "cli/session_options.h"

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

}  // namespace

int verb_logits(const Args& args) {
  const std::filesystem::path out = required_flag(args, "out");
  const at::Tensor ids = read_ids(required_flag(args, "tokens"));
  Session session(args.recipe, session_options(args));
  write_safetensors(out, {{"logits", session.logits(ids)}});
  return 0;
}

}  // namespace tenon::host
