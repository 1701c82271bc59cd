# Files below a folder as a C++ source, so that the program needs nothing beside itself: tenon_embed_files(<out.cpp> <function> <root> <pattern>).
# The function is declared in framework/base/embedded.h.
include_guard(GLOBAL)

function(tenon_embed_files out function root pattern)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS RELATIVE "${root}" "${root}/${pattern}")
  list(SORT files)
  set(rows "")
  foreach(file IN LISTS files)
    set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${root}/${file}")
    string(FIND "${file}" "/" slash)
    string(SUBSTRING "${file}" 0 ${slash} folder)
    math(EXPR slash "${slash} + 1")
    string(SUBSTRING "${file}" ${slash} -1 path)
    file(READ "${root}/${file}" text)
    string(APPEND rows "      {\"${folder}\", \"${path}\", R\"TENON(${text})TENON\"},\n")
  endforeach()
  set(source "// Made by tenon_embed_files (cmake/Embed.cmake).
#include \"base/embedded.h\"

namespace tenon::host {

const std::vector<EmbeddedFile>& ${function}() {
  static const auto* const all = new std::vector<EmbeddedFile>{
${rows}  };
  return *all;
}

}  // namespace tenon::host
")
  set(before "")
  if(EXISTS "${out}")
    file(READ "${out}" before)
  endif()
  if(NOT before STREQUAL source)
    file(WRITE "${out}" "${source}")
  endif()
endfunction()
