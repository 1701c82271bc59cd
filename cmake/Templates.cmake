# The files of sdk/templates/ as a C++ source, so that `host plugins new` needs nothing beside the program: tenon_embed_templates(<out.cpp>).
include_guard(GLOBAL)

function(tenon_embed_templates out)
  set(root "${PROJECT_SOURCE_DIR}/sdk/templates")
  file(GLOB_RECURSE files CONFIGURE_DEPENDS RELATIVE "${root}" "${root}/*")
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
  set(source "// Made from sdk/templates/ by tenon_embed_templates (cmake/Templates.cmake).
#include \"cli/new_plugin.h\"

namespace tenon::host {

const std::vector<TemplateFile>& template_files() {
  static const auto* const all = new std::vector<TemplateFile>{
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
