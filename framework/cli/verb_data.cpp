#include <algorithm>
#include <cstdio>

#include "base/json.h"
#include "base/log.h"
#include "cli/session_options.h"
#include "data/report.h"
#include "model/media_support.h"
#include "model/text_files.h"
#include "session/workspace.h"

namespace tenon::host {

int verb_data(const Args& args) {
  const Workspace work(args.recipe, session_options(args));
  const Recipe& recipe = work.recipe;
  if (!recipe.data) fail(ErrorCode::Recipe, recipe.file.string(), ": there is no [data] to show");
  const auto checkpoint = Checkpoint::open(recipe.model.path);
  const auto codec = load_text(recipe, *work.registry, *checkpoint, /*required=*/recipe.data->format != "tokenized");
  LoadedModel ends;  // the rule for end tokens, without a model
  ends.checkpoint = checkpoint, ends.config = checkpoint->config();
  // Added tokens may stand behind the rows that the checkpoint has.
  int64_t vocabulary = checkpoint->config().int_or("vocab_size", 0);
  if (codec && vocabulary > 0 && !recipe.text.add_tokens.empty()) vocabulary = std::max(vocabulary, codec->vocab_size());
  DatasetRequest request{.data = &*recipe.data,
                         .text = codec.get(),
                         .end_ids = ends.eos_ids(),
                         .vocab_size = vocabulary,
                         .seed = recipe.train ? recipe.train->seed : 0,
                         .media = load_processor(recipe, *work.registry, *checkpoint),
                         .media_folder = recipe.media.folder};
  if (codec && codec->eos()) request.end_ids.push_back(*codec->eos());
  std::optional<Dataset> train, eval;
  if (!recipe.data->train.empty()) train = build_dataset(request);
  request.is_eval = true;
  if (!recipe.data->eval.empty()) eval = build_dataset(request);
  const DataReport report =
      data_report(train ? &*train : nullptr, eval ? &*eval : nullptr, codec.get(), args.get<int64_t>("limit").value_or(3));
  std::printf("%s\n", args.json ? to_json(report.json).c_str() : report.text.c_str());
  return 0;
}

}  // namespace tenon::host
