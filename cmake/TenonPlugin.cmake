# tenon_add_plugin(<name> [TIER native|stable] SOURCES a.cpp ... [CUDA_SOURCES x.cu ...] [NO_CUDA_SOURCES y.cpp ...] [LINK target ...] [TESTS t_test.cpp ...])
#
# The one way to declare a plugin, in tenon's tree and outside it: a module lib<name>.so that sees the SDK alone, exports its manifest and
# entry and nothing else. TIER (native by default) decides which SDK that is: a stable plugin links nothing of LibTorch.
# CUDA_SOURCES are compiled where nvcc was found, NO_CUDA_SOURCES where it was not. TESTS become the doctest executable
# test_<name>, built from the same sources.
include_guard(GLOBAL)

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
  if(TENON_HAVE_CUDA)
    set(device_sources ${arg_CUDA_SOURCES})
  else()
    set(device_sources ${arg_NO_CUDA_SOURCES})
  endif()
  # Objects apart, so that the tests link the very same code.
  add_library(${name}_objects OBJECT ${arg_SOURCES} ${device_sources})
  target_link_libraries(${name}_objects PUBLIC ${sdk} ${arg_LINK})
  set_target_properties(${name}_objects PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
    CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
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
  if(arg_TESTS AND COMMAND tenon_add_test)
    # The same code, without what the plugin is compiled with: a test of a stable plugin is a host's code.
    add_library(${name}_code INTERFACE)
    target_sources(${name}_code INTERFACE $<TARGET_OBJECTS:${name}_objects>)
    target_link_libraries(${name}_code INTERFACE ${arg_LINK})
    tenon_add_test(test_${name} SOURCES ${arg_TESTS} LINK ${name}_code)
  endif()
endfunction()
