# tenon_add_plugin(<name> [TIER native|stable] SOURCES a.cpp ... [CUDA_SOURCES x.cu ...] [NO_CUDA_SOURCES y.cpp ...] [LINK target ...] [TESTS t_test.cpp ...])
#
# The one way to declare a plugin, in tenon's tree and outside it: a module lib<name>.so that sees the SDK alone, exports its manifest and
# entry and nothing else. TIER (native by default) decides which SDK that is: a stable plugin links nothing of LibTorch.
# CUDA_SOURCES are compiled where the language CUDA is enabled, NO_CUDA_SOURCES where it is not. TESTS become the doctest executable
# test_<name>, built from the same sources.
#
# TENON_STATIC_PLUGINS (in tenon's own tree): ON for all, or a list of names. Such a plugin becomes part of libtenon.so, from the same sources and with
# the same manifest; tenon_write_static_plugins() makes the list of entries that the host calls, so that no constructor has to run.
include_guard(GLOBAL)

# Whether a plugin is linked into libtenon.so.
function(tenon_is_static name out)
  set(${out} OFF PARENT_SCOPE)
  if(TENON_PLUGIN_OUTPUT AND (TENON_STATIC_PLUGINS STREQUAL "ON" OR name IN_LIST TENON_STATIC_PLUGINS))
    set(${out} ON PARENT_SCOPE)
  endif()
endfunction()

function(tenon_add_plugin name)
  cmake_parse_arguments(arg "" "TIER" "SOURCES;CUDA_SOURCES;NO_CUDA_SOURCES;LINK;TESTS" ${ARGN})
  if(NOT arg_TIER OR arg_TIER STREQUAL "native")
    set(sdk tenon::sdk)
    if(TENON_NO_NATIVE)
      message(FATAL_ERROR "tenon_add_plugin(${name}): ${TENON_NO_NATIVE}")
    endif()
  elseif(arg_TIER STREQUAL "stable")
    set(sdk tenon::stable)
  else()
    message(FATAL_ERROR "tenon_add_plugin(${name}): TIER is '${arg_TIER}', expected native or stable")
  endif()
  get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
  if("CUDA" IN_LIST languages)
    set(device_sources ${arg_CUDA_SOURCES})
  else()
    set(device_sources ${arg_NO_CUDA_SOURCES})
  endif()
  tenon_is_static(${name} is_static)
  # Objects apart, so that the tests link the very same code.
  add_library(${name}_objects OBJECT ${arg_SOURCES} ${device_sources})
  if(is_static)
    if(sdk STREQUAL "tenon::sdk")
      set(sdk tenon_sdk_headers)
    endif()
    # Every plugin has these names; inside one library each needs its own.
    foreach(symbol manifest register entry_v1 examples)
      list(APPEND own_names tenon_plugin_${symbol}=tenon_plugin_${symbol}_${name})
    endforeach()
    target_compile_definitions(${name}_objects PRIVATE ${own_names})
  endif()
  target_link_libraries(${name}_objects PUBLIC ${sdk} ${arg_LINK})
  set_target_properties(${name}_objects PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
    CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  if("CUDA" IN_LIST languages AND arg_CUDA_SOURCES)
    if(NOT CMAKE_CUDA_STANDARD)
      # CMake 3.25 does not know how to ask nvcc for it.
      target_compile_options(${name}_objects PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
    endif()
    # 13000 is 13.0; the manifest says so, and the host compares.
    string(REGEX REPLACE "^([0-9]+)\\.([0-9]+).*" "\\1 * 1000 + \\2 * 10" release "${CMAKE_CUDA_COMPILER_VERSION}")
    math(EXPR release "${release}")
    target_compile_definitions(${name}_objects PRIVATE TENON_PLUGIN_CUDA=${release})
  endif()
  if(is_static)
    _tenon_link_in(${name} ${arg_LINK})
  else()
    _tenon_make_module(${name})
  endif()
  if(NOT TENON_PLUGIN_OUTPUT)
    # What is shipped holds no path of the machine that built it; debuggers want them.
    get_filename_component(tenon_prefix "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../../.." ABSOLUTE)
    foreach(place IN ITEMS "${PROJECT_SOURCE_DIR}=${PROJECT_NAME}" "${tenon_prefix}=tenon" "${TENON_TORCH_DIR}=libtorch")
      target_compile_options(${name}_objects PRIVATE
        "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<CONFIG:Debug,RelWithDebInfo>>>:-ffile-prefix-map=${place}>")
    endforeach()
  endif()
  if(arg_TESTS AND COMMAND tenon_add_test)
    # The same code, without what the plugin is compiled with: a test of a stable plugin is a host's code.
    add_library(${name}_code INTERFACE)
    target_sources(${name}_code INTERFACE $<TARGET_OBJECTS:${name}_objects>)
    target_link_libraries(${name}_code INTERFACE ${arg_LINK})
    tenon_add_test(test_${name} SOURCES ${arg_TESTS} LINK ${name}_code)
    target_compile_definitions(test_${name} PRIVATE ${own_names})
  endif()
endfunction()

# tenon_run_cuda_on_cpu(a_test.cpp ...): these tests include a .cu file and run it on the CPU, thread for thread: tests/support/cuda_on_cpu.
function(tenon_run_cuda_on_cpu)
  set_source_files_properties(${ARGN} PROPERTIES INCLUDE_DIRECTORIES "${PROJECT_SOURCE_DIR}/tests/support/cuda_on_cpu"
    COMPILE_OPTIONS "-Wno-unknown-pragmas;-ffp-contract=off")
endfunction()

# A module of its own.
function(_tenon_make_module name)
  add_library(${name} MODULE)
  target_link_libraries(${name} PRIVATE ${name}_objects)
  target_link_options(${name} PRIVATE "-Wl,--version-script=${CMAKE_CURRENT_FUNCTION_LIST_DIR}/exports.map" "-Wl,--exclude-libs,ALL" "-Wl,-z,noexecstack")
  # The host has libtenon.so and LibTorch in memory already: no path of the machine that builds belongs into the file.
  set_target_properties(${name} PROPERTIES SKIP_BUILD_RPATH ON INSTALL_RPATH "" INSTALL_RPATH_USE_LINK_PATH OFF)
  if(TARGET tenon_warnings)
    target_link_libraries(${name}_objects PRIVATE tenon_warnings tenon_sanitizers)
    target_link_libraries(${name} PRIVATE tenon_sanitizers)
  endif()
  if(TENON_PLUGIN_OUTPUT)
    set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${TENON_PLUGIN_OUTPUT}")
    install(TARGETS ${name} LIBRARY DESTINATION lib/tenon/plugins)
    # `./dev run` builds host and these, not the tests.
    if(NOT TARGET tenon_plugins)
      add_custom_target(tenon_plugins)
    endif()
    add_dependencies(tenon_plugins ${name})
  endif()
endfunction()

# A part of libtenon.so.
function(_tenon_link_in name)
  # An empty stand-in, for what the plugin's CMakeLists.txt sets on its module.
  file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/static_${name}.cpp" CONTENT "// ${name} is linked into libtenon.so.\n")
  add_library(${name} OBJECT "${CMAKE_CURRENT_BINARY_DIR}/static_${name}.cpp")
  target_sources(tenon PRIVATE $<TARGET_OBJECTS:${name}_objects>)
  target_link_libraries(tenon PRIVATE ${ARGN})
  target_link_libraries(${name}_objects PRIVATE tenon_warnings tenon_sanitizers)
  set_property(GLOBAL APPEND PROPERTY TENON_STATIC_LIST ${name})
  if(NOT TARGET tenon_plugins)
    add_custom_target(tenon_plugins)
  endif()
  add_dependencies(tenon_plugins tenon)
endfunction()

# After all plugins: the entries of those that are linked in.
function(tenon_write_static_plugins file)
  get_property(names GLOBAL PROPERTY TENON_STATIC_LIST)
  set(declarations "")
  set(rows "")
  foreach(name IN LISTS names)
    string(APPEND declarations
      "extern \"C\" {\n"
      "extern const tenon::Manifest tenon_plugin_manifest_${name};\n"
      "[[gnu::weak]] void tenon_plugin_register_${name}(tenon::Registrar*);\n"
      "[[gnu::weak]] const tenon_plugin_v1* tenon_plugin_entry_v1_${name}(const tenon_services_v1*, tenon_call*);\n"
      "[[gnu::weak]] const char* tenon_plugin_examples_${name}();\n"
      "}\n")
    string(APPEND rows
      "      {&tenon_plugin_manifest_${name}, tenon_plugin_register_${name}, tenon_plugin_entry_v1_${name}, tenon_plugin_examples_${name}},\n")
  endforeach()
  file(CONFIGURE OUTPUT "${file}" @ONLY CONTENT "// Made by tenon_write_static_plugins (cmake/TenonPlugin.cmake).
#include \"plugins/static_plugins.h\"

${declarations}
namespace tenon::host {

const std::vector<StaticPlugin>& static_plugins() {
  static const auto* const all = new std::vector<StaticPlugin>{
${rows}  };
  return *all;
}

}  // namespace tenon::host
")
endfunction()
