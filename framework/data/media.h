#pragma once
// Media in messages: which files they name, and the tokens that stand for them in a sequence.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/media_support.h"
#include "tenon/media.h"
#include "tenon/value.h"

namespace tenon::host {

// Takes the media parts of `messages` ({type = "image" or "audio", path}, in lists of content) in order and leaves {type = "image"} behind, as chat templates
// expect it. A part without a path takes the next of `files`; so does each mark "<image>" in a text where there are `files`. Relative paths lie in
// `folder`, where they are there, else in the working folder. Error(Data): URLs, parts without a file, files without a part.
std::vector<Medium> take_media(Value& messages, const std::filesystem::path& folder, const std::vector<Medium>& files = {});

// The same, but every part keeps its file as {type = "image", path}.
void settle_media(Value& messages, const std::filesystem::path& folder, const std::vector<Medium>& files = {});

// The media of a record beside its messages: "image" or "images" (audio, video alike), a path or a list of them.
std::vector<Medium> listed_media(const Value& record);

// Whether a content holds parts that are no text.
bool has_media(const Value& content);

// Puts the tokens of the media in the place of their placeholders; labels (may be null) become kIgnore there. Error(Data) when there are not as many
// placeholders as media, or the model takes none.
void expand_media(std::vector<int64_t>& ids, std::vector<int64_t>* labels, const std::vector<Medium>& media, const MediaSupport& support);

}  // namespace tenon::host
