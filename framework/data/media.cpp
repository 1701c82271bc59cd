#include "data/media.h"

#include <algorithm>
#include <map>
#include <optional>

#include "base/text.h"
#include "tenon/error.h"
#include "tenon/objective.h"

namespace tenon::host {

namespace fs = std::filesystem;

namespace {

const std::vector<std::string>& media_kinds() {
  static const std::vector<std::string> kinds = {"image", "audio", "video"};
  return kinds;
}

// "image", "image_url", "input_image" -> "image"; "" for what is no medium.
std::string kind_of_part(const Value& part) {
  const std::string type = part.is_table() ? part.string_or("type", "") : "";
  for (const std::string& kind : media_kinds())
    if (type == kind || type == kind + "_url" || type == "input_" + kind) return kind;
  return "";
}

const Value* first_set(const Value& part, std::initializer_list<std::string> keys) {
  for (const std::string& key : keys)
    if (const Value* value = part.find_set(key)) return value;
  return nullptr;
}

std::string local_path(std::string path) {
  if (path.starts_with("file://")) return path.substr(7);
  if (path.starts_with("data:"))
    fail(ErrorCode::Data, "a medium is given as data inside the message, expected a path: write it to a file and name that");
  if (const size_t colon = path.find("://"); colon != std::string::npos)
    fail(ErrorCode::Data, "'", path.substr(0, 200), "' is a URL, expected a path: nothing is fetched, so download it first");
  return path;
}

// What other tools read in a part, and where it is said here: run without it, the model would see something else.
struct PartOption {
  const char *key, *instead;
};
constexpr PartOption kPartOptions[] = {
    {"fps", "write {\"fps\": NUMBER} to video_metadata.json in the folder of its frames"},
    {"min_pixels", "[media] in the recipe has one for all"},
    {"max_pixels", "[media] in the recipe has one for all"},
    {"total_pixels", "[media] in the recipe has max_pixels for all"},
    {"resized_height", "[media] in the recipe has min_pixels and max_pixels for all"},
    {"resized_width", "[media] in the recipe has min_pixels and max_pixels for all"},
    {"nframes", "the checkpoint's video processor picks frames, alike for all"},
    {"min_frames", "the checkpoint's video processor picks frames, alike for all"},
    {"max_frames", "the checkpoint's video processor picks frames, alike for all"},
    {"video_start", "leave only the frames in the folder that count"},
    {"video_end", "leave only the frames in the folder that count"},
};

// Where the part names its file; "" when it names none.
std::string path_of_part(const Value& part, const std::string& kind) {
  for (const PartOption& option : kPartOptions)
    if (part.find_set(option.key))
      fail(ErrorCode::Data, "a part of type '", kind, "' says ", option.key, ", which no single part can: ", option.instead);
  const Value* value = first_set(part, {"path", kind, "url", kind + "_url", "file"});
  if (value && value->is_table()) value = first_set(*value, {"path", "url"});
  if (!value) return "";
  if (!value->is_string())
    fail(ErrorCode::Data, "the path of a part of type '", kind, "' is a ", value->type_name(), ", expected a string",
         kind == "video" ? ": a video is a folder of pictures, its frames in the order of their names" : "");
  return local_path(value->as_string());
}

// Takes from the record's own list, by kind and in order.
class Listed {
 public:
  explicit Listed(const std::vector<Medium>& files) : files_(files), taken_(files.size(), false) {}

  std::optional<std::string> next(const std::string& kind) {
    for (size_t i = 0; i < files_.size(); ++i)
      if (!taken_[i] && files_[i].kind == kind) return taken_[i] = true, files_[i].file;
    return std::nullopt;
  }
  bool has(const std::string& kind) const {
    return std::any_of(files_.begin(), files_.end(), [&](const Medium& m) { return m.kind == kind; });
  }
  size_t count(const std::string& kind) const {
    return static_cast<size_t>(std::count_if(files_.begin(), files_.end(), [&](const Medium& m) { return m.kind == kind; }));
  }
  void check_all_taken() const {
    for (size_t i = 0; i < files_.size(); ++i)
      if (!taken_[i])
        fail(ErrorCode::Data, "the record lists ", count(files_[i].kind), " ", files_[i].kind,
             " files, more than its messages have places for: put <", files_[i].kind, "> where each belongs");
  }

 private:
  const std::vector<Medium>& files_;
  std::vector<bool> taken_;
};

Value part(const std::string& type, std::optional<std::string> text = std::nullopt) {
  Value value = Value::table();
  value.set("type", type);
  if (text) value.set("text", *text);
  return value;
}

// Text with marks -> parts; the white space that sets a mark apart from the text goes with it.
void split_marks(const std::string& text, const Listed& listed, Value::List& parts) {
  size_t begin = 0;
  while (begin <= text.size()) {
    size_t at = std::string::npos;
    std::string kind;
    for (const std::string& k : media_kinds())
      if (const size_t found = listed.has(k) ? text.find("<" + k + ">", begin) : std::string::npos; found < at) at = found, kind = k;
    std::string before = text.substr(begin, at == std::string::npos ? at : at - begin);
    if (begin > 0 && !before.empty() && before.front() == '\n') before.erase(0, 1);
    if (at != std::string::npos && !before.empty() && before.back() == '\n') before.pop_back();
    if (!before.empty()) parts.push_back(part("text", before));
    if (at == std::string::npos) return;
    parts.push_back(part(kind));
    begin = at + kind.size() + 2;
  }
}

bool has_mark(const std::string& text, const Listed& listed) {
  return std::any_of(media_kinds().begin(), media_kinds().end(),
                     [&](const std::string& kind) { return listed.has(kind) && text.find("<" + kind + ">") != std::string::npos; });
}

std::string placed(const std::string& file, const fs::path& folder) {
  const fs::path path(file);
  std::error_code ignored;
  if (path.is_absolute() || folder.empty()) return file;
  return fs::exists(folder / path, ignored) || !fs::exists(path, ignored) ? (folder / path).string() : file;
}

}  // namespace

bool has_media(const Value& content) {
  return content.is_list() &&
         std::any_of(content.as_list().begin(), content.as_list().end(), [](const Value& part) { return !kind_of_part(part).empty(); });
}

std::vector<Medium> listed_media(const Value& record) {
  std::vector<Medium> media;
  for (const std::string& kind : media_kinds()) {
    const Value* listed = first_set(record, {kind + "s", kind});
    if (!listed) continue;
    const Value::List one{*listed};
    for (const Value& item : listed->is_list() ? listed->as_list() : one) {
      if (item.is_string() && item.as_string().empty()) continue;
      const std::string path = item.is_table() ? path_of_part(item, kind) : local_path(item.as_string());
      if (path.empty())
        fail(ErrorCode::Data, "an entry of '", kind, "s' names no path: media inside the record are not served, write them to files");
      media.push_back({kind, path});
    }
  }
  return media;
}

std::vector<Medium> take_media(Value& messages, const fs::path& folder, const std::vector<Medium>& files) {
  std::vector<Medium> media;
  Listed listed(files);
  size_t number = 0;
  for (Value& message : messages.as_list()) {
    ++number;
    Value* content = message.find("content");
    if (!content) continue;
    if (content->is_string() && has_mark(content->as_string(), listed)) {
      Value::List parts;
      split_marks(content->as_string(), listed, parts);
      *content = Value(std::move(parts));
    }
    if (!content->is_list()) continue;
    for (Value& item : content->as_list()) {
      const std::string kind = kind_of_part(item);
      if (kind.empty()) continue;
      std::string path = with_context(concat("message ", number), [&] { return path_of_part(item, kind); });
      if (path.empty()) {
        const auto next = listed.next(kind);
        if (!next)
          fail(ErrorCode::Data, "message ", number, kind == "video" ? ": a " : ": an ", kind, " has no file: the record lists ",
               listed.count(kind), " ", kind, " files, and its messages have more places; give each part a 'path'");
        path = *next;
      }
      media.push_back({kind, placed(path, folder)});
      item = part(kind);
    }
  }
  listed.check_all_taken();
  return media;
}

void settle_media(Value& messages, const fs::path& folder, const std::vector<Medium>& files) {
  const std::vector<Medium> media = take_media(messages, folder, files);
  size_t next = 0;
  for (Value& message : messages.as_list())
    if (Value* content = message.find("content"); content && content->is_list())
      for (Value& item : content->as_list())
        if (!kind_of_part(item).empty()) item.set("path", media.at(next++).file);
}

void expand_media(std::vector<int64_t>& ids, std::vector<int64_t>* labels, const std::vector<Medium>& media, const MediaSupport& support) {
  if (media.empty() && !support.processor) return;
  if (!support.processor)
    fail(ErrorCode::Data, "there is ", media.front().kind == "video" ? "a " : "an ", media.front().kind, " in the messages, and ",
         support.problem);
  const Processor& processor = *support.processor;
  const std::vector<std::string> kinds = processor.kinds();
  for (const Medium& medium : media)
    if (std::find(kinds.begin(), kinds.end(), medium.kind) == kinds.end())
      fail(ErrorCode::Data, "the model takes ", join(kinds, " and "), ", found ", medium.kind, " '", medium.file, "'");
  std::map<int64_t, std::string> placeholders;
  for (const std::string& kind : kinds) placeholders[processor.placeholder(kind)] = kind;
  std::map<std::string, int64_t> found, given;
  for (const int64_t id : ids)
    if (const auto place = placeholders.find(id); place != placeholders.end()) ++found[place->second];
  for (const Medium& medium : media) ++given[medium.kind];
  for (const std::string& kind : kinds)
    if (found[kind] != given[kind])
      fail(ErrorCode::Data, "the text has ", found[kind], " places for ", kind, "s (token ", processor.placeholder(kind),
           "), the messages have ", given[kind], " ", kind, "s: ",
           found[kind] < given[kind] ? "the chat template must write the placeholder once for each"
                                     : "a placeholder spelled in a text counts as a place, so it must not be written there");

  std::vector<int64_t> all_ids, all_labels;
  std::map<std::string, size_t> used;  // media of a kind before this one
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto place = placeholders.find(ids[i]);
    if (place == placeholders.end()) {
      all_ids.push_back(ids[i]);
      if (labels) all_labels.push_back((*labels)[i]);
      continue;
    }
    size_t skip = used[place->second]++;
    const auto medium = std::find_if(media.begin(), media.end(), [&](const Medium& m) { return m.kind == place->second && skip-- == 0; });
    const std::vector<int64_t> tokens = processor.tokens(*medium);
    all_ids.insert(all_ids.end(), tokens.begin(), tokens.end());
    all_labels.insert(all_labels.end(), labels ? tokens.size() : 0, kIgnore);
  }
  ids = std::move(all_ids);
  if (labels) *labels = std::move(all_labels);
}

}  // namespace tenon::host
