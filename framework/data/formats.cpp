#include "data/formats.h"

#include <algorithm>

#include "base/text.h"
#include "data/media.h"

namespace tenon::host {

namespace {

const std::map<std::string, std::vector<std::string>>& fields_by_format() {
  static const std::map<std::string, std::vector<std::string>> table = {{"chat", {"messages", "role", "content", "tools", "system"}},
                                                                        {"alpaca", {"instruction", "input", "output"}},
                                                                        {"prompt_completion", {"prompt", "completion", "role", "content"}},
                                                                        {"completion", {"text"}},
                                                                        {"tokenized", {"input_ids", "labels", "attention_mask"}}};
  return table;
}

// Positions whose first byte lies in [begin, end). Tokens without text (a special token added in front) lie nowhere.
void train_stretch(const Encoded& encoded, size_t begin, size_t end, std::vector<int64_t>& labels) {
  for (size_t i = 0; i < encoded.ids.size(); ++i) {
    const auto [from, to] = encoded.offsets[i];
    if (to > 0 && from >= begin && from < end) labels[i] = encoded.ids[i];
  }
}

std::vector<int64_t> int_list(const Value& value, const char* name) {
  if (!value.is_list()) fail(ErrorCode::Data, "expected '", name, "' as a list of ints, found ", value.type_name());
  std::vector<int64_t> ints;
  ints.reserve(value.as_list().size());
  for (const auto& item : value.as_list()) ints.push_back(item.as_int());
  return ints;
}

}  // namespace

Formatter::Formatter(FormatOptions options, const TextCodec* text) : options_(std::move(options)), text_(text) {
  auto known = fields_by_format().find(options_.format);
  if (known == fields_by_format().end()) {
    std::vector<std::string> names;
    for (const auto& [name, fields] : fields_by_format()) names.push_back(name);
    fail(ErrorCode::Recipe, "unknown data.format '", options_.format, "'", did_you_mean(options_.format, names), ": there are ",
         join(names, ", "));
  }
  for (const auto& [canonical, key] : options_.fields)
    if (std::find(known->second.begin(), known->second.end(), canonical) == known->second.end())
      fail(ErrorCode::Recipe, "data.fields: format '", options_.format, "' has no field '", canonical, "'",
           did_you_mean(canonical, known->second), ": it has ", join(known->second, ", "));
  if (options_.format == "tokenized") return;
  if (!text_) fail(ErrorCode::Data, "data.format = \"", options_.format, "\" needs a tokenizer, and the checkpoint has none");
  opening_ = text_->encode("", true).ids;
  const std::optional<int64_t> eos = text_->eos(), bos = text_->bos();
  while (!opening_.empty() && eos && opening_.back() == *eos && !(opening_.size() == 1 && bos == eos)) opening_.pop_back();
  end_ = eos.value_or(-1);
  if (options_.format == "chat") {
    if (!text_->has_chat_template())
      fail(ErrorCode::Data, "data.format = \"chat\" needs a chat template: set text.chat_template to a file");
  } else if (!eos) {
    fail(ErrorCode::Data, "data.format = \"", options_.format, "\" ends texts with the tokenizer's end-of-sequence token, and it has none");
  }
}

std::vector<Sample> Formatter::samples(const Value& record, const std::string& origin) const {
  std::vector<Sample> samples;
  if (options_.format == "completion")
    samples = completion(record);
  else if (options_.format == "chat")
    samples.push_back(chat(record));
  else if (options_.format == "alpaca")
    samples.push_back(alpaca(record));
  else if (options_.format == "prompt_completion")
    samples.push_back(prompt_completion(record));
  else
    samples.push_back(tokenized(record));
  for (Sample& sample : samples) sample.origin = origin;
  return samples;
}

const Value& Formatter::field(const Value& record, const char* name) const {
  const std::string key = field_name(options_.fields, name);
  if (const Value* value = record.find_set(key)) return *value;
  std::vector<std::string> keys;
  for (const auto& [present, value] : record.as_table()) keys.push_back(present);
  fail(ErrorCode::Data, "no '", key, "' in the record", did_you_mean(key, keys), ": it has ", join(keys, ", "));
}

std::string Formatter::text_field(const Value& record, const char* name) const {
  const Value& value = field(record, name);
  if (!value.is_string()) fail(ErrorCode::Data, "expected '", field_name(options_.fields, name), "' as text, found ", value.type_name());
  return value.as_string();
}

// Puts the opening (BOS) in front, unless the text already spells it.
void Formatter::open(std::vector<int64_t>& ids) const {
  if (opening_.empty() || (!ids.empty() && ids.front() == opening_.front() && text_->is_special(ids.front()))) return;
  ids.insert(ids.begin(), opening_.begin(), opening_.end());
}

Sample Formatter::conversation(const Conversation& conversation, size_t first_trained_message) const {
  RenderOptions render;
  render.want_spans = !options_.train_on_inputs;
  render.variables = conversation.variables;
  const Rendered rendered = text_->render(conversation.messages, render);
  const Encoded encoded = text_->encode(rendered.text, false);
  Sample sample{encoded.ids, std::vector<int64_t>(encoded.ids.size(), kIgnore)};
  if (options_.train_on_inputs) sample.labels = sample.ids;
  for (const Span& span : rendered.assistant) {
    const auto message = static_cast<size_t>(std::max<int64_t>(0, span.message));
    if (span.message >= 0 &&
        (message < first_trained_message || (message < conversation.is_trainable.size() && !conversation.is_trainable[message])))
      continue;
    train_stretch(encoded, span.begin, span.end, sample.labels);
  }
  expand_media(sample.ids, &sample.labels, conversation.media, options_.media);
  sample.media = conversation.media;
  return sample;
}

Sample Formatter::chat(const Value& record) const {
  return conversation(read_conversation(record, options_.fields, options_.media_folder), 0);
}

// is_apart: the answer is tokenized by itself (as Axolotl does); otherwise the two are one text and the border is found by offsets (as TRL does).
Sample Formatter::prompt_then_answer(const std::string& prompt, const std::string& answer, bool is_apart) const {
  Sample sample;
  if (is_apart) {
    sample.ids = text_->encode(prompt, false).ids;
    open(sample.ids);
    sample.labels.assign(sample.ids.size(), kIgnore);
    std::vector<int64_t> ids = text_->encode(answer, false).ids;
    if (!ids.empty() && text_->bos() && ids.front() == *text_->bos()) ids.erase(ids.begin());
    sample.ids.insert(sample.ids.end(), ids.begin(), ids.end());
    sample.labels.insert(sample.labels.end(), ids.begin(), ids.end());
  } else {
    const Encoded encoded = text_->encode(prompt + answer, false);
    sample.labels.assign(encoded.ids.size(), kIgnore);
    train_stretch(encoded, prompt.size(), prompt.size() + answer.size(), sample.labels);
    sample.ids = encoded.ids;
    open(sample.ids);
    sample.labels.insert(sample.labels.begin(), sample.ids.size() - sample.labels.size(), kIgnore);
  }
  if (sample.ids.empty() || sample.ids.back() != end_ || sample.labels.back() == kIgnore)
    sample.ids.push_back(end_), sample.labels.push_back(end_);
  if (options_.train_on_inputs) sample.labels = sample.ids;
  return sample;
}

Sample Formatter::alpaca(const Value& record) const {
  const std::string instruction = text_field(record, "instruction"), output = text_field(record, "output");
  const Value* input = record.find_set(field_name(options_.fields, "input"));
  std::string prompt;
  if (input && !input->as_string().empty())
    prompt = concat(
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
        "appropriately completes the request.\n\n",
        "### Instruction:\n", instruction, "\n\n### Input:\n", input->as_string(), "\n\n### Response:\n");
  else
    prompt = concat(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n",
        instruction, "\n\n### Response:\n");
  return prompt_then_answer(prompt, output, true);
}

Sample Formatter::prompt_completion(const Value& record) const {
  const Value &prompt = field(record, "prompt"), &completion = field(record, "completion");
  if (prompt.is_string() && completion.is_string()) return prompt_then_answer(prompt.as_string(), completion.as_string(), false);
  if (!prompt.is_list() || !completion.is_list())
    fail(ErrorCode::Data, "expected prompt and completion both as text or both as messages, found ", prompt.type_name(), " and ",
         completion.type_name());
  if (!text_->has_chat_template())
    fail(ErrorCode::Data, "prompt and completion are messages, which needs a chat template: set text.chat_template to a file");
  Conversation conversation = read_messages(prompt, options_.fields, options_.media_folder);
  const size_t first = conversation.messages.as_list().size();
  Conversation rest = read_messages(completion, options_.fields, options_.media_folder);
  for (auto& message : rest.messages.as_list()) conversation.messages.as_list().push_back(std::move(message));
  conversation.is_trainable.insert(conversation.is_trainable.end(), rest.is_trainable.begin(), rest.is_trainable.end());
  conversation.media.insert(conversation.media.end(), rest.media.begin(), rest.media.end());
  return this->conversation(conversation, first);
}

std::vector<Sample> Formatter::completion(const Value& record) const {
  std::vector<int64_t> ids = text_->encode(text_field(record, "text"), false).ids;
  open(ids);
  if (ids.empty() || ids.back() != end_) ids.push_back(end_);
  std::vector<Sample> pieces;
  const auto length = static_cast<size_t>(options_.max_length);
  for (size_t begin = 0; begin < ids.size(); begin += length) {
    const size_t end = std::min(ids.size(), begin + length);
    if (end - begin < 2 && begin > 0) break;  // one token predicts nothing
    std::vector<int64_t> piece(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end));
    pieces.push_back({piece, piece});
  }
  return pieces;
}

Sample Formatter::tokenized(const Value& record) const {
  Sample sample;
  sample.ids = int_list(field(record, "input_ids"), "input_ids");
  const Value* labels = record.find_set(field_name(options_.fields, "labels"));
  sample.labels = labels ? int_list(*labels, "labels") : sample.ids;
  if (options_.train_on_inputs) sample.labels = sample.ids;
  if (sample.labels.size() != sample.ids.size())
    fail(ErrorCode::Data, "labels have ", sample.labels.size(), " entries, input_ids ", sample.ids.size());
  if (const Value* mask = record.find_set(field_name(options_.fields, "attention_mask"))) {
    // Padding at the end goes; batches are padded by length here.
    std::vector<int64_t> seen = int_list(*mask, "attention_mask");
    if (seen.size() != sample.ids.size())
      fail(ErrorCode::Data, "attention_mask has ", seen.size(), " entries, input_ids ", sample.ids.size());
    while (!seen.empty() && seen.back() == 0) seen.pop_back();
    if (std::find(seen.begin(), seen.end(), 0) != seen.end())
      fail(ErrorCode::Data, "attention_mask is 0 before the last token: only padding at the end is served");
    sample.ids.resize(seen.size());
    sample.labels.resize(seen.size());
  }
  for (size_t i = 0; i < sample.ids.size(); ++i) {
    auto is_token = [&](int64_t id) { return id >= 0 && (options_.vocab_size == 0 || id < options_.vocab_size); };
    if (!is_token(sample.ids[i]))
      fail(ErrorCode::Data, "input_ids[", i, "] is ", sample.ids[i], ", outside the vocabulary of ", options_.vocab_size);
    if (sample.labels[i] != kIgnore && !is_token(sample.labels[i]))
      fail(ErrorCode::Data, "labels[", i, "] is ", sample.labels[i], ", neither a token nor ", kIgnore);
  }
  return sample;
}

}  // namespace tenon::host
