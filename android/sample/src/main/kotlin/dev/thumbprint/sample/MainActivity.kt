package dev.thumbprint.sample

import android.Manifest
import android.os.Build
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.compose.setContent
import androidx.activity.result.contract.ActivityResultContracts
import androidx.activity.viewModels
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.layout.safeDrawingPadding
import androidx.compose.material3.Button
import androidx.compose.material3.ExperimentalMaterial3Api
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.PrimaryTabRow
import androidx.compose.material3.Surface
import androidx.compose.material3.Tab
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableIntStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp

class MainActivity : ComponentActivity() {
    private val model: ChatViewModel by viewModels()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContent {
            MaterialTheme {
                Surface(Modifier.fillMaxSize()) { Screens(model) }
            }
        }
    }
}

@OptIn(ExperimentalMaterial3Api::class)
@Composable
private fun Screens(model: ChatViewModel) {
    var screen by rememberSaveable { mutableIntStateOf(0) }
    Column(Modifier.safeDrawingPadding()) {
        model.error?.let { Text(it, Modifier.padding(16.dp), MaterialTheme.colorScheme.error) }
        if (!model.hasModel) {
            ChooseModel(model)
            return@Column
        }
        PrimaryTabRow(screen) {
            Tab(screen == 0, { screen = 0 }, text = { Text(stringResource(R.string.chat)) })
            Tab(
                screen == 1,
                {
                    screen = 1
                    model.refresh()
                },
                text = { Text(stringResource(R.string.adapters)) },
            )
        }
        if (screen == 0) ChatScreen(model) else AdaptersScreen(model, rememberPersonalizeNow(model))
    }
}

@Composable
private fun ChooseModel(model: ChatViewModel) {
    val pick = rememberLauncherForActivityResult(ActivityResultContracts.OpenDocument()) { it?.let(model::chooseModel) }
    Box(Modifier.fillMaxSize(), Alignment.Center) {
        Button({ pick.launch(arrayOf("*/*")) }) { Text(stringResource(R.string.choose_model)) }
    }
}

/** Asks for the notification first; without it the system shows the job in its task manager alone. */
@Composable
private fun rememberPersonalizeNow(model: ChatViewModel): () -> Unit {
    val ask = rememberLauncherForActivityResult(ActivityResultContracts.RequestPermission()) { model.personalizeNow() }
    return {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
            ask.launch(Manifest.permission.POST_NOTIFICATIONS)
        } else {
            model.personalizeNow()
        }
    }
}
