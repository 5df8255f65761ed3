// The step of the Jenkins shared library: runs vllm-ci in the checkout of the current node, and keeps its report, red or green.
//
//   vllmCi()                                                      vllm-ci run
//   vllmCi(command: 'test', arguments: '--url http://host:8000')
//   vllmCi(program: 'uvx vllm-ci@0.1.0', config: 'serving/vllm-ci.yaml')
//
// Fails the build unless the verdict is passed. Returns verdict, commit, digest, image and report. Jenkins uses a workspace again for later
// builds: each has a folder of its own, so that results of an earlier one are not taken for its.
Map call(Map given = [:]) {
    String line = [given.program ?: 'vllm-ci', given.command ?: 'run', given.arguments ?: ''].join(' ').trim()
    // Names of runs have a hyphen: the link `latest` would publish one of them twice.
    String own = "build-${env.BUILD_NUMBER}"
    withEnv([
        "VLLM_CI_CONFIG=${given.config ?: ''}",
        "VLLM_CI_REPORT_DIR=${env.WORKSPACE}/.vllm-ci/${own}/report",
        "VLLM_CI_OUTPUTS=${env.WORKSPACE}/.vllm-ci/${own}/outputs.env",
    ]) {
        try {
            sh line
        } finally {
            junit testResults: ".vllm-ci/${own}/report/*-*/junit.xml", allowEmptyResults: true
            archiveArtifacts artifacts: ".vllm-ci/${own}/report/*-*/**", allowEmptyArchive: true
        }
    }
    return outputs(fileExists(".vllm-ci/${own}/outputs.env") ? readFile(".vllm-ci/${own}/outputs.env") : '')
}

Map outputs(String text) {
    Map found = [:]
    for (String each : text.split('\n')) {
        int at = each.indexOf('=')
        if (at > 0) {
            found[each.substring(0, at).replace('VLLM_CI_OUT_', '').toLowerCase()] = each.substring(at + 1)
        }
    }
    return found
}
