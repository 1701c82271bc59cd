# What `host` itself is made of, beside base/ and recipe/: everything that answers without LibTorch.
set(light_plugins "")
foreach(name discovery elf_section manifest_reader mismatches overrides permissions policy)
  list(APPEND light_plugins "${CMAKE_CURRENT_SOURCE_DIR}/plugins/${name}.cpp")
endforeach()
set(light_cli "")
foreach(name doctor_light new_plugin pin plugins_list recipe_reference report)
  list(APPEND light_cli "${CMAKE_CURRENT_SOURCE_DIR}/cli/${name}.cpp")
endforeach()
# What only the executable needs: the command line itself.
set(host_cli "")
foreach(name args help light_main verbs)
  list(APPEND host_cli "${CMAKE_CURRENT_SOURCE_DIR}/cli/${name}.cpp")
endforeach()
# For the release number alone: no other file of these sees LibTorch's headers.
set_source_files_properties(plugins/mismatches.cpp PROPERTIES INCLUDE_DIRECTORIES "${TENON_TORCH_DIR}/include"
  COMPILE_DEFINITIONS "TENON_CUDA_VERSION=${TENON_CUDA_VERSION}")
set_source_files_properties(cli/help.cpp cli/doctor_light.cpp PROPERTIES COMPILE_DEFINITIONS "TENON_VERSION=\"${PROJECT_VERSION}\"")
